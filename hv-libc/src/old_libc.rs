//! One library for C libraries older than the one it was built with: an instance may run in a root
//! of an older release (docs/INSTALL.md, *Other versions*), and that release's loader refuses a
//! library that asks for a symbol of a version it has not.
//!
//! glibc gives a moved or new function a version of its own, and a linker binds to the newest.
//! Rust's standard library calls six functions whose newest version is younger than glibc 2.31
//! (Debian 11): `dlsym` and the thread-specific data moved into libc.so in 2.34, `stat64` and
//! `fstat64` became functions in 2.33. The linker is told (build.rs, `--wrap`) to send calls of
//! them here, where each goes on to the version that every glibc has. They are tail jumps, since
//! dlsym(RTLD_NEXT) looks at where its caller is, and hidden, so that the daemon does not see them.
//! `tests/shim.rs` reads the library's symbols: one that is too young fails there.

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
std::arch::global_asm!(
    ".macro hv_old name, real",
    ".symver hv_old_\\name, \\real@GLIBC_2.2.5",
    ".globl __wrap_\\name",
    ".hidden __wrap_\\name",
    ".type __wrap_\\name, @function",
    "__wrap_\\name:",
    ".endm",
    ".pushsection .text.hv_old_libc, \"ax\", @progbits",
    "hv_old dlsym, dlsym",
    "jmp hv_old_dlsym@PLT",
    "hv_old pthread_key_create, pthread_key_create",
    "jmp hv_old_pthread_key_create@PLT",
    "hv_old pthread_key_delete, pthread_key_delete",
    "jmp hv_old_pthread_key_delete@PLT",
    "hv_old pthread_setspecific, pthread_setspecific",
    "jmp hv_old_pthread_setspecific@PLT",
    // int __xstat64(int version, const char *path, struct stat64 *buf); the kernel's own form of it
    // is version 1 here.
    "hv_old stat64, __xstat64",
    "mov rdx, rsi",
    "mov rsi, rdi",
    "mov edi, 1",
    "jmp hv_old_stat64@PLT",
    "hv_old fstat64, __fxstat64",
    "mov rdx, rsi",
    "mov esi, edi",
    "mov edi, 1",
    "jmp hv_old_fstat64@PLT",
    ".popsection",
);

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "aarch64"))]
std::arch::global_asm!(
    ".macro hv_old name, real",
    ".symver hv_old_\\name, \\real@GLIBC_2.17",
    ".globl __wrap_\\name",
    ".hidden __wrap_\\name",
    ".type __wrap_\\name, @function",
    "__wrap_\\name:",
    ".endm",
    ".pushsection .text.hv_old_libc, \"ax\", @progbits",
    ".p2align 2",
    "hv_old dlsym, dlsym",
    "b hv_old_dlsym",
    "hv_old pthread_key_create, pthread_key_create",
    "b hv_old_pthread_key_create",
    "hv_old pthread_key_delete, pthread_key_delete",
    "b hv_old_pthread_key_delete",
    "hv_old pthread_setspecific, pthread_setspecific",
    "b hv_old_pthread_setspecific",
    // The kernel's own form is version 0 here.
    "hv_old stat64, __xstat64",
    "mov x2, x1",
    "mov x1, x0",
    "mov w0, #0",
    "b hv_old_stat64",
    "hv_old fstat64, __fxstat64",
    "mov x2, x1",
    "mov w1, w0",
    "mov w0, #0",
    "b hv_old_fstat64",
    ".popsection",
);
