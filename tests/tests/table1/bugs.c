/* Bugs of table 1 of papers/001 for a daemon that has none of them: preloaded in front of the shim, or alone.
 *
 * HV_BUG says which:
 *   accept   XORP 31: a peer that connects and disconnects at once makes the process stop listening.
 *   starve   XORP 814: as long as one peer's burst lasts, the event loop serves nobody else.
 *   address  Quagga 418: an address that comes on a link which stays up is not noticed; one whose link comes up is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static enum { NONE, ACCEPT, STARVE, ADDRESS } bug;

/* The next function of that name: the shim's, or the C library's. Other constructors call these before ours has run. */
#define NEXT(name) \
    static __typeof__(name) *next_##name(void) \
    { \
        static __typeof__(name) *next; \
        if (!next) \
            next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name); \
        return next; \
    }
NEXT(accept)
NEXT(accept4)
NEXT(poll)
NEXT(write)
NEXT(socket)
NEXT(recvmsg)

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("HV_BUG");

    if (name && !strcmp(name, "accept"))
        bug = ACCEPT;
    else if (name && !strcmp(name, "starve"))
        bug = STARVE;
    else if (name && !strcmp(name, "address"))
        bug = ADDRESS;
}

/* XORP 31. What "at once" is: the peer has closed this long after it was accepted. */
#define AT_ONCE_MS 50

static int accepted(int listener, int fd, const struct sockaddr *from)
{
    struct pollfd p = { .fd = fd, .events = POLLRDHUP };
    int pair[2];

    if (bug != ACCEPT || fd < 0 || !from || (from->sa_family != AF_INET && from->sa_family != AF_INET6))
        return fd;
    if (next_poll()(&p, 1, AT_ONCE_MS) <= 0 || !(p.revents & (POLLRDHUP | POLLHUP | POLLERR)))
        return fd;
    /* The process goes on with a socket under this number on which nobody will ever come. */
    if (!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
        syscall(SYS_dup3, pair[0], listener, O_CLOEXEC);
        close(pair[0]);
    }
    return fd;
}

int accept(int fd, struct sockaddr *from, socklen_t *len)
{
    return accepted(fd, next_accept()(fd, from, len), from);
}

int accept4(int fd, struct sockaddr *from, socklen_t *len, int flags)
{
    return accepted(fd, next_accept4()(fd, from, len, flags), from);
}

/* XORP 814. A burst: so many octets at once on a stream. It is over when nothing more comes for the time of one turn. */
#define BURST 4096
/* What the processor takes for what is read in one turn. */
static int turn_ms(void)
{
    static int ms = -1;
    const char *text = getenv("HV_BUG_TURN_MS");

    if (ms < 0)
        ms = text ? atoi(text) : 10;
    return ms;
}

static int hog = -1;

static int is_stream(int fd)
{
    int type = 0, listens = 0;
    socklen_t len = sizeof type;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_STREAM)
        return 0;
    len = sizeof listens;
    return !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) && !listens;
}

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    int waiting = 0;
    nfds_t i;

    /* A question about one fd is not the event loop. */
    if (bug != STARVE || n < 2)
        return next_poll()(fds, n, timeout);
    if (hog >= 0) {
        struct pollfd p = { .fd = hog, .events = POLLIN };

        if (next_poll()(&p, 1, turn_ms()) > 0 && p.revents == POLLIN) {
            int found = 0;

            for (i = 0; i < n; i++) {
                fds[i].revents = fds[i].fd == hog ? fds[i].events & POLLIN : 0;
                found += fds[i].revents != 0;
            }
            if (found) {
                usleep(turn_ms() * 1000);
                return found;
            }
        }
        hog = -1;
    }
    int ready = next_poll()(fds, n, timeout);
    for (i = 0; ready > 0 && i < n && hog < 0; i++)
        if (fds[i].revents & POLLIN && is_stream(fds[i].fd) && !ioctl(fds[i].fd, FIONREAD, &waiting) && waiting >= BURST)
            hog = fds[i].fd;
    return ready;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    /* What is to be sent is sent when the event loop says that there is room, and it says nothing of this one now. */
    if (bug == STARVE && hog >= 0 && fd != hog && is_stream(fd)) {
        errno = EAGAIN;
        return -1;
    }
    return next_write()(fd, bytes, len);
}

/* Quagga 418. Which fds are route sockets, which links are down, and what was kept back of each link that stays up. */
#define MOST 256
static char routes[1024];
static char down[MOST];
static struct kept {
    size_t len;
    char bytes[4096];
} kept[MOST];

int socket(int domain, int type, int protocol)
{
    int fd = next_socket()(domain, type, protocol);

    if (fd >= 0 && fd < (int)sizeof routes)
        routes[fd] = domain == AF_NETLINK && protocol == NETLINK_ROUTE;
    return fd;
}

/* What the daemon may see of a datagram; there may be room for more behind it. */
static size_t see(char *bytes, size_t len, size_t room)
{
    static char out[65536];
    size_t used = 0, at = 0;

    while (at + sizeof(struct nlmsghdr) <= len) {
        struct nlmsghdr *h = (struct nlmsghdr *)(bytes + at);
        size_t whole = NLMSG_ALIGN(h->nlmsg_len);
        struct kept *late = 0;
        int hide = 0;

        if (h->nlmsg_len < sizeof *h || at + h->nlmsg_len > len)
            break;
        if (h->nlmsg_type == RTM_NEWADDR && !(h->nlmsg_flags & NLM_F_MULTI)) {
            struct ifaddrmsg *a = NLMSG_DATA(h);
            struct kept *k = a->ifa_index < MOST ? &kept[a->ifa_index] : 0;

            /* It stays unnoticed until its link comes up. */
            if (k && k->len + whole <= sizeof k->bytes) {
                memcpy(k->bytes + k->len, h, h->nlmsg_len);
                k->len += whole;
                hide = 1;
            }
        } else if (h->nlmsg_type == RTM_NEWLINK && !(h->nlmsg_flags & NLM_F_MULTI)) {
            struct ifinfomsg *l = NLMSG_DATA(h);
            int is_down = !(l->ifi_flags & IFF_RUNNING);

            if (l->ifi_index >= 0 && l->ifi_index < MOST) {
                if (down[l->ifi_index] && !is_down)
                    late = &kept[l->ifi_index];
                down[l->ifi_index] = is_down;
            }
        }
        if (!hide && used + whole <= sizeof out) {
            memcpy(out + used, h, h->nlmsg_len);
            used += whole;
        }
        if (late && used + late->len <= sizeof out && used + late->len <= room) {
            memcpy(out + used, late->bytes, late->len);
            used += late->len;
            late->len = 0;
        }
        at += whole;
    }
    memcpy(bytes, out, used);
    return used;
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    ssize_t n = next_recvmsg()(fd, m, flags);

    if (bug != ADDRESS || n <= 0 || fd < 0 || fd >= (int)sizeof routes || !routes[fd] || flags & MSG_PEEK)
        return n;
    if (m->msg_iovlen != 1 || (size_t)n > m->msg_iov[0].iov_len)
        return n;
    size_t left = see(m->msg_iov[0].iov_base, n, m->msg_iov[0].iov_len);
    if (left)
        return left;
    /* All of it is kept back: as if nothing had come. */
    return recvmsg(fd, m, flags);
}
