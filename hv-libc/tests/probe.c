/* Makes the socket calls that routing daemons make and prints what they say, in words that are the same from run to run.
 * The test runs it natively and under libhvlibc.so and compares. usage: probe SCENARIO PORT (PORT is the BGP port) */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int port;
static char **args;

#define DIE(what) do { printf("line %d: %s: %s\n", __LINE__, what, strerror(errno)); exit(1); } while (0)

/* Prints a call's result; errno only where it failed. */
static int say(const char *what, int r) {
    int e = errno;
    if (r < 0) printf("%s: -1 %s\n", what, strerrorname_np(e) ? strerrorname_np(e) : "?");
    else printf("%s: %s\n", what, r == 0 ? "0" : "positive");
    errno = e;
    return r;
}

static socklen_t address(struct sockaddr_storage *s, int af, int p) {
    memset(s, 0, sizeof *s);
    if (af == AF_INET6) {
        struct sockaddr_in6 *a = (void *)s;
        a->sin6_family = AF_INET6;
        a->sin6_port = htons(p);
        a->sin6_addr = in6addr_loopback;
        return sizeof *a;
    }
    struct sockaddr_in *a = (void *)s;
    a->sin_family = AF_INET;
    a->sin_port = htons(p);
    a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof *a;
}

static const char *port_word(int p) { return p == 0 ? "0" : p == port ? "bgp" : "ephemeral"; }

static void print_address(const char *what, const struct sockaddr_storage *s, socklen_t len) {
    char ip[INET6_ADDRSTRLEN] = "-";
    if (s->ss_family == AF_INET) {
        const struct sockaddr_in *a = (const void *)s;
        inet_ntop(AF_INET, &a->sin_addr, ip, sizeof ip);
        printf("%s: v4 %s %s len %u\n", what, ip, port_word(ntohs(a->sin_port)), len);
    } else if (s->ss_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const void *)s;
        inet_ntop(AF_INET6, &a->sin6_addr, ip, sizeof ip);
        printf("%s: v6 %s %s scope %u len %u\n", what, ip, port_word(ntohs(a->sin6_port)), a->sin6_scope_id, len);
    } else {
        printf("%s: family %d len %u\n", what, s->ss_family, len);
    }
}

static void names(const char *who, int fd) {
    struct sockaddr_storage s;
    socklen_t len = sizeof s;
    char what[64];
    snprintf(what, sizeof what, "%s getsockname", who);
    memset(&s, 0, sizeof s);
    if (getsockname(fd, (void *)&s, &len) == 0) print_address(what, &s, len); else say(what, -1);
    snprintf(what, sizeof what, "%s getpeername", who);
    len = sizeof s;
    memset(&s, 0, sizeof s);
    if (getpeername(fd, (void *)&s, &len) == 0) print_address(what, &s, len); else say(what, -1);
}

static void flags(const char *who, int fd) {
    printf("%s flags:%s%s\n", who, fcntl(fd, F_GETFL) & O_NONBLOCK ? " nonblock" : "", fcntl(fd, F_GETFD) & FD_CLOEXEC ? " cloexec" : "");
}

static short wait_for(const char *who, int fd, short events) {
    struct pollfd p = {fd, events, 0};
    int r = poll(&p, 1, 5000);
    printf("%s poll: %d%s%s%s%s\n", who, r, p.revents & POLLIN ? " in" : "", p.revents & POLLOUT ? " out" : "",
           p.revents & POLLERR ? " err" : "", p.revents & POLLHUP ? " hup" : "");
    return p.revents;
}

static void so_error(const char *who, int fd) {
    int e = -1;
    socklen_t len = sizeof e;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0) DIE("SO_ERROR");
    printf("%s SO_ERROR: %s len %u\n", who, e == 0 ? "0" : strerrorname_np(e), len);
}

static void kind(const char *who, int fd) {
    int v[4] = {-1, -1, -1, -1}, name[4] = {SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN};
    for (int i = 0; i < 4; i++) {
        socklen_t len = sizeof v[i];
        getsockopt(fd, SOL_SOCKET, name[i], &v[i], &len);
    }
    printf("%s type %d domain %d protocol %d acceptconn %d\n", who, v[0], v[1], v[2], v[3]);
}

static int tcp(int af, int extra) {
    int fd = socket(af, SOCK_STREAM | extra, 0);
    if (fd < 0) DIE("socket");
    return fd;
}

static int bound(int af, int extra) {
    struct sockaddr_storage s;
    int fd = tcp(af, extra), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (af == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (say("bind", bind(fd, (void *)&s, address(&s, af, port))) < 0) exit(1);
    return fd;
}

static int listening(int af, int extra) {
    int fd = bound(af, extra);
    if (say("listen", listen(fd, 16)) < 0) exit(1);
    return fd;
}

static int dial(int af, int extra) {
    struct sockaddr_storage s;
    int fd = tcp(af, extra);
    if (connect(fd, (void *)&s, address(&s, af, port)) < 0 && errno != EINPROGRESS) DIE("connect");
    return fd;
}

/* Runs f in a child whose output comes before ours. */
static pid_t child(void (*f)(int), int arg) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) DIE("fork");
    if (pid > 0) return pid;
    f(arg);
    exit(0);
}

static void reap(pid_t pid) {
    int status;
    if (waitpid(pid, &status, 0) != pid) DIE("waitpid");
    if (status) printf("child status %d\n", status);
}

static void talk(const char *who, int fd, const char *out) {
    char in[16] = "";
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    if (write(fd, out, strlen(out)) < 0) printf("%s write: %s\n", who, strerrorname_np(errno));
    ssize_t n = read(fd, in, sizeof in - 1);
    printf("%s read %zd %s\n", who, n, n > 0 ? in : "");
}

static void refused(int af) {
    struct sockaddr_storage s;
    socklen_t len = address(&s, af, port);
    int fd = tcp(af, SOCK_NONBLOCK | SOCK_CLOEXEC);
    say("connect", connect(fd, (void *)&s, len));
    flags("dialled", fd);
    wait_for("dialled", fd, POLLIN | POLLOUT);
    so_error("first", fd);
    so_error("second", fd);
    struct sockaddr_storage peer;
    socklen_t room = sizeof peer;
    say("getpeername", getpeername(fd, (void *)&peer, &room));
    close(fd);
    /* Read through connect, as BIRD does it. */
    fd = tcp(af, SOCK_NONBLOCK);
    say("connect", connect(fd, (void *)&s, len));
    wait_for("dialled", fd, POLLOUT);
    say("connect again", connect(fd, (void *)&s, len));
    close(fd);
    /* Read through read, which tells the error once. */
    fd = tcp(af, 0);
    say("blocking connect", connect(fd, (void *)&s, len));
    so_error("blocking", fd);
    kind("never connected", fd);
    close(fd);
}

static void dialler(int af) {
    struct sockaddr_storage s;
    socklen_t len = address(&s, af, port);
    int fd = tcp(af, SOCK_NONBLOCK);
    say("connect", connect(fd, (void *)&s, len));
    flags("dialled", fd);
    wait_for("dialled", fd, POLLOUT);
    so_error("dialled", fd);
    names("dialled", fd);
    kind("dialled", fd);
    say("connect again", connect(fd, (void *)&s, len));
    say("connect once more", connect(fd, (void *)&s, len));
    talk("dialled", fd, "from-dialler");
    close(fd);
    fd = tcp(af, SOCK_CLOEXEC);
    say("blocking connect", connect(fd, (void *)&s, len));
    flags("dialled", fd);
    so_error("dialled", fd);
    names("dialled", fd);
    talk("dialled", fd, "from-second");
    shutdown(fd, SHUT_WR);
    char c;
    printf("after shutdown read %zd\n", read(fd, &c, 1));
}

static void session(int af) {
    struct sockaddr_storage s;
    socklen_t len = sizeof s;
    int l = listening(af, SOCK_NONBLOCK | SOCK_CLOEXEC);
    flags("listening", l);
    kind("listening", l);
    names("listening", l);
    say("accept", accept(l, NULL, NULL));
    say("accept4", accept4(l, (void *)&s, &len, SOCK_NONBLOCK));
    pid_t pid = child(dialler, af);
    wait_for("listening", l, POLLIN);
    memset(&s, 0, sizeof s);
    int fd = say("accept", accept(l, (void *)&s, &len));
    print_address("accepted", &s, len);
    flags("accepted", fd);
    names("accepted", fd);
    kind("accepted", fd);
    so_error("accepted", fd);
    talk("accepted", fd, "from-listener");
    char c;
    printf("accepted read %zd\n", read(fd, &c, 1));
    close(fd);
    wait_for("listening", l, POLLIN);
    fd = say("accept4", accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
    flags("accepted", fd);
    talk("accepted", fd, "from-listener");
    printf("accepted read %zd\n", read(fd, &c, 1));
    close(fd);
    reap(pid);
}

static void just_dial(int af) {
    int fd = dial(af, 0);
    char c;
    printf("dialler read %zd\n", read(fd, &c, 1));
}

/* Addresses cut to the caller's room, lengths told in full, errno left alone. */
static void room(int af) {
    int l = listening(af, 0);
    pid_t pid = child(just_dial, af);
    unsigned char small[16];
    memset(small, 0xee, sizeof small);
    socklen_t len = 4;
    errno = ERANGE;
    int fd = accept(l, (void *)small, &len);
    printf("accepted, errno %s, len %u, octets %02x%02x %d %02x\n", strerrorname_np(errno), len, small[0], small[1],
           (small[2] << 8 | small[3]) != 0, small[4]);
    memset(small, 0xee, sizeof small);
    len = 4;
    getsockname(fd, (void *)small, &len);
    printf("getsockname, errno %s, len %u, octets %02x%02x port %s then %02x\n", strerrorname_np(errno), len, small[0], small[1],
           port_word(small[2] << 8 | small[3]), small[4]);
    len = 0;
    say("getpeername", getpeername(fd, (void *)small, &len));
    printf("len %u\n", len);
    say("accept4 with bad flags", accept4(l, NULL, NULL, 0x40000000));
    close(fd);
    reap(pid);
}

static void option(const char *who, int fd, int level, int name, const char *what, int value) {
    int got = -1;
    socklen_t len = sizeof got;
    if (value >= 0 && setsockopt(fd, level, name, &value, sizeof value) < 0) printf("%s set %s: %s\n", who, what, strerrorname_np(errno));
    int r = getsockopt(fd, level, name, &got, &len);
    if (r < 0) printf("%s get %s: %s\n", who, what, strerrorname_np(errno));
    else printf("%s %s = %d len %u\n", who, what, got, len);
}

#define OPTION(level, name, value) option(who, fd, level, name, #name, value)

static void common_options(const char *who, int fd, int af, int value) {
    OPTION(IPPROTO_TCP, TCP_NODELAY, value < 0 ? -1 : 1);
    OPTION(SOL_SOCKET, SO_REUSEADDR, value < 0 ? -1 : 1);
    OPTION(SOL_SOCKET, SO_REUSEPORT, value < 0 ? -1 : 1);
    OPTION(SOL_SOCKET, SO_KEEPALIVE, value < 0 ? -1 : 1);
    if (af == AF_INET) {
        OPTION(IPPROTO_IP, IP_TTL, value);
        OPTION(IPPROTO_IP, IP_MINTTL, value < 0 ? -1 : 1);
        OPTION(IPPROTO_IP, IP_TOS, value < 0 ? -1 : 0xc0);
    } else {
        OPTION(IPPROTO_IPV6, IPV6_UNICAST_HOPS, value);
        OPTION(IPPROTO_IPV6, IPV6_TCLASS, value < 0 ? -1 : 0xc0);
        OPTION(IPPROTO_IPV6, IPV6_V6ONLY, -1);
    }
}

static void option_dialler(int af) {
    struct sockaddr_storage s;
    socklen_t len = address(&s, af, port);
    int fd = tcp(af, 0);
    common_options("before connect", fd, af, 255);
    connect(fd, (void *)&s, len);
    common_options("unchanged after connect", fd, af, -1);
    common_options("set after connect", fd, af, 64);
    option("dialled", fd, IPPROTO_TCP, 9999, "no such TCP option", -1);
    char c;
    printf("dialler read %zd\n", read(fd, &c, 1));
}

static void options(int af) {
    int fd = tcp(af, 0), one = 1;
    struct sockaddr_storage s;
    if (af == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    common_options("before bind", fd, af, 255);
    if (say("bind", bind(fd, (void *)&s, address(&s, af, port))) < 0) exit(1);
    common_options("unchanged after bind", fd, af, -1);
    common_options("set after bind", fd, af, 254);
    say("listen", listen(fd, 5));
    pid_t pid = child(option_dialler, af);
    int leg = accept(fd, NULL, NULL);
    common_options("set after accept", leg, af, 33);
    usleep(50000);
    close(leg);
    reap(pid);
}

/* One open socket under several numbers and in a child. */
static void child_of_leg(int fd) {
    names("in the child", fd);
    talk("in the child", fd, "child");
}

static void duplicates(int af) {
    int l = listening(af, 0);
    int again = dup(l);
    close(l);
    if (dup2(again, 30) < 0) DIE("dup2");
    names("dup of listening", 30);
    pid_t pid = child(just_dial, af);
    int fd = accept(30, NULL, NULL);
    int other = fcntl(fd, F_DUPFD, 50);
    close(fd);
    names("dup of accepted", other);
    close(other);
    reap(pid);
    pid = child(dialler, af);
    fd = accept(again, NULL, NULL);
    pid_t worker = child(child_of_leg, fd);
    reap(worker);
    close(fd);
    fd = accept(again, NULL, NULL);
    talk("parent", fd, "parent");
    close(fd);
    reap(pid);
}

static void send_fd(int over, int fd) {
    char byte = 0;
    struct iovec io = {&byte, 1};
    union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } u;
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof u.buf};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    if (sendmsg(over, &m, 0) != 1) DIE("sendmsg");
}

static int receive_fd(int over) {
    char byte;
    struct iovec io = {&byte, 1};
    union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } u;
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof u.buf};
    if (recvmsg(over, &m, 0) != 1) DIE("recvmsg");
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

/* As OpenBGPD: the parent binds; another image, its root and user changed, listens, accepts and dials. */
static void engine(int unused) {
    (void)unused;
    if (geteuid() == 0) {
        if (chroot("/proc/self/fdinfo") < 0 || chdir("/") < 0) DIE("chroot");
        if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0) DIE("setuid");
    }
    int l = receive_fd(3);
    names("passed", l);
    kind("passed", l);
    say("listen", listen(l, 5));
    int fd = dial(AF_INET, 0);
    int leg = accept4(l, NULL, NULL, SOCK_NONBLOCK);
    if (leg < 0) DIE("accept4");
    flags("accepted", leg);
    names("accepted", leg);
    names("dialled", fd);
    send_fd(3, leg);
    talk("dialled", fd, "x");
}

static void passed(int af) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) DIE("socketpair");
    int l = bound(af, 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", port);
        dup2(pair[1], 3);
        execl("/proc/self/exe", args[0], "engine", number, NULL);
        DIE("exec");
    }
    close(pair[1]);
    send_fd(pair[0], l);
    close(l);
    int leg = receive_fd(pair[0]);
    char c;
    fcntl(leg, F_SETFL, 0);
    if (write(leg, "y", 1) != 1 || read(leg, &c, 1) != 1) DIE("leg");
    reap(pid);
    names("leg given back", leg);
}

/* A daemon that closes every fd it did not open itself. */
static void close_all(int af) {
    for (int fd = 3; fd < 2000; fd++) close(fd);
    int l = listening(af, 0);
    for (int fd = 0; fd < 3; fd++) names("standard fd", fd);
    pid_t pid = child(just_dial, af);
    int fd = accept(l, NULL, NULL);
    names("accepted", fd);
    close(fd);
    reap(pid);
}

/* What is none of the shim's business. */
static void others(int unused) {
    (void)unused;
    struct sockaddr_un u = {.sun_family = AF_UNIX};
    struct sockaddr_storage s;
    int pair[2], one = 1;
    u.sun_path[0] = 0;
    snprintf(u.sun_path + 1, 40, "hvprobe-%d", getpid());
    socklen_t len = sizeof(sa_family_t) + 1 + strlen(u.sun_path + 1);
    int l = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
    kind("unix", l);
    say("unix bind", bind(l, (void *)&u, len));
    say("unix listen", listen(l, 3));
    say("unix accept", accept(l, NULL, NULL));
    int c = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    say("unix connect", connect(c, (void *)&u, len));
    int a = accept(l, NULL, NULL);
    kind("unix listening", l);
    kind("unix accepted", a);
    struct sockaddr_un got;
    len = sizeof got;
    getsockname(c, (void *)&got, &len);
    printf("unix client: family %d len %u\n", got.sun_family, len);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    kind("pair", pair[0]);
    len = sizeof got;
    say("pair getpeername", getpeername(pair[0], (void *)&got, &len));
    printf("pair: family %d len %u\n", got.sun_family, len);
    so_error("pair", pair[0]);
    say("pair nodelay", setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    say("pair listen", listen(pair[0], 1));
    int t = tcp(AF_INET, SOCK_NONBLOCK);
    say("other port bind", bind(t, (void *)&s, address(&s, AF_INET, 0)));
    say("other port listen", listen(t, 4));
    kind("other port", t);
    names("other port", t);
    say("other port accept", accept(t, NULL, NULL));
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    say("udp connect to the BGP port", connect(udp, (void *)&s, address(&s, AF_INET, port)));
    kind("udp", udp);
    names("udp", udp);
    say("not a socket", getsockname(0, (void *)&s, &len));
    say("not open", connect(999, (void *)&s, sizeof s));
    say("bad address", connect(t, (void *)8, 0));
    say("connect with a short address", connect(udp, (void *)&s, 3));
}

static volatile int stop;

static void *busy(void *arg) {
    int fd = *(int *)arg, one = 1;
    struct sockaddr_storage s;
    while (!stop) {
        socklen_t len = sizeof s;
        if (getsockname(fd, (void *)&s, &len) < 0 || len != sizeof(struct sockaddr_in)) DIE("getsockname");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    return NULL;
}

static void one_look(int fd) {
    struct sockaddr_storage s;
    for (int i = 0; i < 20; i++) {
        socklen_t len = sizeof s;
        if (getsockname(fd, (void *)&s, &len) < 0 || s.ss_family != AF_INET) DIE("getsockname in the child");
    }
}

/* Forks while other threads are inside the shim: a child must never wait for a lock that nobody will let go. */
static void forks(int af) {
    int l = listening(af, 0);
    pthread_t t[3];
    for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, busy, &l);
    for (int i = 0; i < 200; i++) reap(child(one_look, l));
    stop = 1;
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    printf("200 forks\n");
}

/* Accepts until told otherwise; the test kills the broker meanwhile. */
static void orphan(int af) {
    struct sockaddr_storage s;
    int l = listening(af, SOCK_NONBLOCK), fd = dial(af, 0);
    fflush(stdout);
    struct pollfd p = {l, POLLIN, 0};
    int leg = poll(&p, 1, 5000) == 1 ? accept(l, NULL, NULL) : -1;
    say("accept", leg);
    fflush(stdout);
    char c;
    if (read(0, &c, 1) != 1) DIE("no word from the test");
    wait_for("leg", leg, POLLIN);
    printf("leg read %d\n", (int)read(leg, &c, 1));
    wait_for("listening", l, POLLIN);
    say("accept", accept(l, NULL, NULL));
    names("leg", leg);
    names("dialled", fd);
    fd = tcp(af, SOCK_NONBLOCK);
    say("connect", connect(fd, (void *)&s, address(&s, af, port)));
    kind("not connected", fd);
}

/* Listens on while virtd goes and comes again, as a daemon does that polls; each step when the test says so. */
static void restarted(int extra) {
    struct sockaddr_storage s;
    char c;
    int l = listening(AF_INET, extra);
    for (int round = 0; round < 2; round++) {
        printf("ready\n");
        fflush(stdout);
        if (read(0, &c, 1) != 1) DIE("no word from the test");
        wait_for("listening", l, POLLIN);
        say("accept", accept(l, NULL, NULL));
    }
    /* virtd is looked for once a second. A daemon never waits in accept for what poll has not promised. */
    struct pollfd p = {l, POLLIN, 0};
    for (int i = 0; i < 50 && poll(&p, 1, 0) == 1; i++)
        if (accept(l, NULL, NULL) >= 0 || (errno != ECONNABORTED && errno != EAGAIN)) DIE("accept");
    names("listening", l);
    flags("listening", l);
    pid_t pid = child(just_dial, AF_INET);
    wait_for("listening", l, POLLIN);
    int fd = say("accept", accept(l, NULL, NULL));
    names("accepted", fd);
    close(fd);
    reap(pid);
    fd = dial(AF_INET, 0);
    socklen_t len = sizeof s;
    say("dialled getpeername", getpeername(fd, (void *)&s, &len));
}

/* Listens before virtd is there; the test starts it meanwhile. */
static void early(int extra) {
    struct sockaddr_storage s;
    char c;
    int l = tcp(AF_INET, extra), ttl = 255;
    say("bind", bind(l, (void *)&s, address(&s, AF_INET, port)));
    say("ttl", setsockopt(l, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl));
    say("listen", listen(l, 5));
    wait_for("listening", l, POLLIN);
    say("accept", accept(l, NULL, NULL));
    int fd = tcp(AF_INET, 0);
    say("connect", connect(fd, (void *)&s, address(&s, AF_INET, port)));
    say("connect to another port", connect(fd, (void *)&s, address(&s, AF_INET, 1)));
    printf("ready\n");
    fflush(stdout);
    if (read(0, &c, 1) != 1) DIE("no word from the test");
    struct pollfd p = {l, POLLIN, 0};
    for (int i = 0; i < 50 && poll(&p, 1, 0) == 1; i++)
        if (accept(l, NULL, NULL) >= 0 || (errno != ECONNABORTED && errno != EAGAIN)) DIE("accept");
    names("listening", l);
    pid_t pid = child(just_dial, AF_INET);
    wait_for("listening", l, POLLIN);
    fd = say("accept", accept(l, NULL, NULL));
    names("accepted", fd);
    close(fd);
    reap(pid);
    fd = tcp(AF_INET, 0);
    say("connect", connect(fd, (void *)&s, address(&s, AF_INET, port)));
}

/* Sockets of another network namespace, as a daemon has them that puts each VRF into one. */
static void elsewhere(int af) {
    struct sockaddr_storage s;
    int here = tcp(af, 0);
    if (unshare(CLONE_NEWNET) < 0) DIE("unshare");
    int there = tcp(af, 0);
    say("bind there", bind(there, (void *)&s, address(&s, af, port)));
    say("connect there", connect(there, (void *)&s, address(&s, af, port)));
    say("other port there", bind(there, (void *)&s, address(&s, AF_INET, 0)));
    say("bind here", bind(here, (void *)&s, address(&s, af, port)));
}

/* A host that never answers. The test has made the network for it. */
static void timed_out(int af) {
    struct sockaddr_storage s;
    socklen_t len = address(&s, af, port), room = sizeof s;
    inet_pton(AF_INET, "192.0.2.9", &((struct sockaddr_in *)&s)->sin_addr);
    int fd = tcp(af, SOCK_NONBLOCK);
    say("connect", connect(fd, (void *)&s, len));
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    printf("poll while under way %d\n", poll(&p, 1, 300));
    so_error("under way", fd);
    say("connect again", connect(fd, (void *)&s, len));
    struct sockaddr_storage peer;
    say("getpeername", getpeername(fd, (void *)&peer, &room));
    wait_for("dialled", fd, POLLIN | POLLOUT);
    so_error("first", fd);
    so_error("second", fd);
}

static socklen_t link_local(struct sockaddr_storage *s) {
    socklen_t len = address(s, AF_INET6, port);
    struct sockaddr_in6 *a = (void *)s;
    inet_pton(AF_INET6, "fe80::1", &a->sin6_addr);
    a->sin6_scope_id = if_nametoindex("hvt0");
    return len;
}

static void dial_link_local(int af) {
    struct sockaddr_storage s;
    int fd = tcp(af, 0);
    say("connect", connect(fd, (void *)&s, link_local(&s)));
    names("dialled", fd);
    char c;
    printf("dialler read %zd\n", read(fd, &c, 1));
}

/* IPv6 link-local addresses mean nothing without their scope. */
static void scope(int af) {
    struct sockaddr_storage s;
    int l = tcp(af, 0), one = 1;
    setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    say("bind", bind(l, (void *)&s, link_local(&s)));
    say("listen", listen(l, 1));
    names("listening", l);
    pid_t pid = child(dial_link_local, af);
    socklen_t len = sizeof s;
    int fd = accept(l, (void *)&s, &len);
    print_address("accepted", &s, len);
    names("accepted", fd);
    close(fd);
    reap(pid);
}

static void absent(int unused) {
    (void)unused;
    struct sockaddr_storage s;
    int fd = tcp(AF_INET, SOCK_NONBLOCK);
    say("connect", connect(fd, (void *)&s, address(&s, AF_INET, port)));
    say("bind", bind(tcp(AF_INET6, 0), (void *)&s, address(&s, AF_INET6, port)));
    names("never connected", fd);
    others(0);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*f)(int); int arg; } table[] = {
        {"refused4", refused, AF_INET},       {"refused6", refused, AF_INET6},   {"session4", session, AF_INET},
        {"session6", session, AF_INET6},      {"room4", room, AF_INET},          {"room6", room, AF_INET6},
        {"options4", options, AF_INET},       {"options6", options, AF_INET6},   {"duplicates", duplicates, AF_INET},
        {"passed", passed, AF_INET},          {"engine", engine, 0},             {"close_all", close_all, AF_INET},
        {"others", others, 0},                {"forks", forks, AF_INET},         {"orphan", orphan, AF_INET},
        {"absent", absent, 0},                {"restarted", restarted, SOCK_NONBLOCK},
        {"restarted_blocking", restarted, 0}, {"early", early, SOCK_NONBLOCK},
        {"elsewhere", elsewhere, AF_INET},
        {"timed_out", timed_out, AF_INET},    {"scope", scope, AF_INET6},
    };
    static char out[1 << 16];
    setvbuf(stdout, out, _IOFBF, sizeof out);
    if (argc != 3) return 2;
    args = argv;
    port = atoi(argv[2]);
    alarm(60);
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].name, argv[1])) {
            table[i].f(table[i].arg);
            return 0;
        }
    return 2;
}
