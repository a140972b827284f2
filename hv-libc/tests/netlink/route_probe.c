/* Makes the calls on route sockets that routing daemons make and prints what they say, in words that are the same from run to run.
 * The test runs it natively and under libhvlibc.so and compares. usage: route_probe SCENARIO */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIE(what) do { printf("line %d: %s: %s\n", __LINE__, what, strerror(errno)); exit(1); } while (0)

static char buf[1 << 16];
/* Not known when compiling: a fortified build checks it in __recv_chk and its like. */
static volatile size_t room = sizeof buf;

static long say(const char *what, long r) {
    int e = errno;
    if (r < 0) printf("%s: -1 %s\n", what, strerrorname_np(e) ? strerrorname_np(e) : "?");
    else printf("%s: %s\n", what, r == 0 ? "0" : "positive");
    errno = e;
    return r;
}

static int route_socket(int flags) {
    int fd = socket(AF_NETLINK, SOCK_RAW | flags, NETLINK_ROUTE);
    if (fd < 0) DIE("socket");
    return fd;
}

static void print_name(const char *what, int r, const struct sockaddr_nl *a, socklen_t len) {
    if (r < 0) { say(what, r); return; }
    printf("%s: family %d pid %s groups %#x len %u\n", what, a->nl_family,
           a->nl_pid == 0 ? "0" : a->nl_pid == 4711 ? "4711" : "chosen", a->nl_groups, len);
}

static unsigned name(const char *who, int fd) {
    struct sockaddr_nl a;
    socklen_t len = sizeof a;
    char what[64];
    memset(&a, 0x55, sizeof a);
    snprintf(what, sizeof what, "%s getsockname", who);
    print_name(what, getsockname(fd, (void *)&a, &len), &a, len);
    return a.nl_pid;
}

/* Messages under construction. */
struct batch { char bytes[1 << 15]; size_t n; struct nlmsghdr *last; };

static struct nlmsghdr *add(struct batch *b, int type, int flags, unsigned seq, const void *body, size_t len) {
    struct nlmsghdr *h = b->last = (void *)(b->bytes + b->n);
    memset(h, 0, NLMSG_SPACE(len));
    h->nlmsg_len = NLMSG_LENGTH(len);
    h->nlmsg_type = type;
    h->nlmsg_flags = NLM_F_REQUEST | flags;
    h->nlmsg_seq = seq;
    memcpy(NLMSG_DATA(h), body, len);
    b->n += NLMSG_SPACE(len);
    return h;
}

static void attribute(struct batch *b, int type, const void *value, size_t len) {
    struct rtattr *a = (void *)(b->bytes + b->n);
    a->rta_type = type;
    a->rta_len = RTA_LENGTH(len);
    memcpy(RTA_DATA(a), value, len);
    b->n += RTA_SPACE(len);
    b->last->nlmsg_len = b->bytes + b->n - (char *)b->last;
}

/* 203.0.113.HOST/32 via 192.0.2.GATEWAY, or via 10.9.9.9, which nobody knows. */
static void route(struct batch *b, int type, int flags, unsigned seq, int host, int gateway) {
    struct rtmsg r = {.rtm_family = AF_INET, .rtm_dst_len = 32, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = 186,
                      .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST};
    unsigned char dst[4] = {203, 0, 113, host}, via[4] = {192, 0, 2, gateway}, nowhere[4] = {10, 9, 9, 9};
    add(b, type, flags, seq, &r, sizeof r);
    attribute(b, RTA_DST, dst, 4);
    attribute(b, RTA_GATEWAY, gateway ? via : nowhere, 4);
}

static void new_route(struct batch *b, int flags, unsigned seq, int host, int gateway) {
    route(b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL | flags, seq, host, gateway);
}

static void dump(struct batch *b, int type, unsigned seq) {
    struct ifinfomsg body = {.ifi_family = type == RTM_GETROUTE ? AF_INET : AF_UNSPEC};
    add(b, type, NLM_F_DUMP, seq, &body, type == RTM_GETROUTE ? sizeof(struct rtmsg) : sizeof body);
}

static long send_batch(int fd, struct batch *b) {
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct iovec v = {b->bytes, b->n};
    struct msghdr m = {.msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = &v, .msg_iovlen = 1};
    return sendmsg(fd, &m, 0);
}

/* Prints the messages of a datagram; false when it ended a dump. */
static int print_messages(const char *what, void *bytes, size_t n) {
    int more = 1;
    for (struct nlmsghdr *h = bytes; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
        if (h->nlmsg_type == NLMSG_ERROR) {
            struct nlmsgerr *e = NLMSG_DATA(h);
            printf("%s: seq %u error %s\n", what, h->nlmsg_seq, e->error ? strerrorname_np(-e->error) : "0");
            more = 0;
        } else if (h->nlmsg_type == NLMSG_DONE) {
            printf("%s: seq %u done\n", what, h->nlmsg_seq);
            more = 0;
        } else {
            printf("%s: seq %u type %u%s\n", what, h->nlmsg_seq, h->nlmsg_type, h->nlmsg_flags & NLM_F_MULTI ? " multi" : "");
        }
    }
    return more;
}

/* One recvmsg, of which nl_groups is left out: a notification's is 0 under the shim. -1 where it failed, else whether a dump goes on. */
static int take(const char *what, int fd, int flags) {
    struct sockaddr_nl from;
    memset(&from, 0x55, sizeof from);
    struct iovec v = {buf, sizeof buf};
    struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &v, .msg_iovlen = 1};
    ssize_t n = recvmsg(fd, &m, flags);
    if (n < 0) { say(what, n); return -1; }
    printf("%s: name len %u family %d pid %u flags %#x control %zu\n", what, m.msg_namelen, from.nl_family,
           from.nl_pid, m.msg_flags, (size_t)m.msg_controllen);
    return print_messages(what, buf, n);
}

static void take_all(const char *what, int fd, int flags) {
    while (take(what, fd, flags) > 0) {}
}

static void names(void) {
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_ROUTE}, peer;
    int fd = route_socket(SOCK_CLOEXEC);
    printf("flags%s%s\n", fcntl(fd, F_GETFL) & O_NONBLOCK ? " nonblock" : "", fcntl(fd, F_GETFD) & FD_CLOEXEC ? " cloexec" : "");
    name("fresh", fd);
    say("bind short", bind(fd, (void *)&a, sizeof a - 1));
    struct sockaddr_nl wrong = {.nl_family = AF_INET};
    say("bind wrong family", bind(fd, (void *)&wrong, sizeof wrong));
    name("still fresh", fd);
    say("bind groups", bind(fd, (void *)&a, sizeof a));
    unsigned first = name("bound", fd);
    a.nl_groups = RTMGRP_LINK;
    say("bind again", bind(fd, (void *)&a, sizeof a));
    a.nl_pid = first;
    say("bind again, same pid", bind(fd, (void *)&a, sizeof a));
    name("bound again", fd);
    int group = RTNLGRP_IPV6_ROUTE;
    say("add membership", setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
    name("member", fd);

    fd = route_socket(SOCK_NONBLOCK);
    printf("flags%s%s\n", fcntl(fd, F_GETFL) & O_NONBLOCK ? " nonblock" : "", fcntl(fd, F_GETFD) & FD_CLOEXEC ? " cloexec" : "");
    a = (struct sockaddr_nl){.nl_family = AF_NETLINK, .nl_pid = 4711};
    say("bind pid", bind(fd, (void *)&a, sizeof a));
    name("pid", fd);
    int other = route_socket(0);
    say("bind taken pid", bind(other, (void *)&a, sizeof a));
    say("bind", bind(other, (void *)&(struct sockaddr_nl){.nl_family = AF_NETLINK}, sizeof a));
    printf("port ids differ %d\n", name("other", other) != name("pid", fd));
    socklen_t len = 5;
    memset(&a, 0x55, sizeof a);
    say("getsockname short", getsockname(fd, (void *)&a, &len));
    printf("len %u family %d pid %#x\n", len, a.nl_family, a.nl_pid & 0xffffff00);

    fd = route_socket(0);
    len = sizeof peer;
    print_name("getpeername", getpeername(fd, (void *)&peer, &len), &peer, len);
    a = (struct sockaddr_nl){.nl_family = AF_NETLINK};
    say("connect short", connect(fd, (void *)&a, 4));
    say("connect", connect(fd, (void *)&a, sizeof a));
    name("connected", fd);
    struct batch b = {.n = 0};
    dump(&b, RTM_GETLINK, 1);
    say("send on connected", send(fd, b.bytes, b.n, 0));
    take_all("connected", fd, 0);

    fd = route_socket(0);
    say("sendto", sendto(fd, b.bytes, b.n, 0, (void *)&a, sizeof a));
    name("sent", fd);
    take_all("sent", fd, 0);
    name("sent", fd);
    int v[3] = {-1, -1, -1}, option[3] = {SO_TYPE, SO_DOMAIN, SO_PROTOCOL};
    fd = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
    for (int i = 0; i < 3; i++) getsockopt(fd, SOL_SOCKET, option[i], &v[i], (len = sizeof v[i], &len));
    printf("type %d domain %d protocol %d\n", v[0], v[1], v[2]);
    say("stream", socket(AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE));
}

static void dumps(void) {
    struct sockaddr_nl from;
    socklen_t len = sizeof from;
    int fd = route_socket(0);
    struct batch b = {.n = 0};
    dump(&b, RTM_GETLINK, 7);
    say("send", send_batch(fd, &b));
    take_all("links", fd, 0);

    /* A socket that does not wait sees the whole dump, too. */
    int types[] = {RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETLINK};
    for (int how = 0; how < 2; how++) {
        int quick = route_socket(how ? SOCK_NONBLOCK : 0);
        say("nothing yet", recv(quick, buf, room, MSG_DONTWAIT));
        for (int i = 0; i < 4; i++) {
            b.n = 0;
            dump(&b, types[i], 10 + i);
            say("send", send(quick, b.bytes, b.n, 0));
            take_all("quick", quick, how ? 0 : MSG_DONTWAIT);
        }
        say("nothing more", recv(quick, buf, room, MSG_DONTWAIT));
    }

    /* How libnetlink, iproute2 and zebra find the room they need. */
    b.n = 0;
    dump(&b, RTM_GETLINK, 8);
    say("write", write(fd, b.bytes, b.n));
    ssize_t whole = recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC), small = recv(fd, buf, 20, MSG_PEEK | MSG_TRUNC);
    printf("peeked lengths equal %d\n", whole == small && whole > 20);
    printf("peek into little room %zd\n", recv(fd, buf, 20, MSG_PEEK));
    struct iovec v = {buf, 8};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    printf("peek with recvmsg %zd flags %#x\n", recvmsg(fd, &m, MSG_PEEK), m.msg_flags);
    memset(&from, 0x55, sizeof from);
    ssize_t n = recvfrom(fd, buf, room, 0, (void *)&from, &len);
    printf("peeked and received equal %d\n", n == whole);
    print_name("recvfrom", n, &from, len);
    if (print_messages("recvfrom", buf, n)) take_all("rest", fd, 0);

    b.n = 0;
    dump(&b, RTM_GETLINK, 9);
    say("sendto", sendto(fd, b.bytes, b.n, 0, NULL, 0));
    room = 20;
    printf("read into little room %zd\n", read(fd, buf, room));
    room = sizeof buf;
    take_all("after it", fd, 0);

    /* Answered, but no dump; refused; malformed. */
    struct ifinfomsg one = {.ifi_index = 1};
    b.n = 0;
    add(&b, RTM_GETLINK, 0, 11, &one, sizeof one);
    say("one", send_batch(fd, &b));
    take("one", fd, MSG_DONTWAIT);
    one.ifi_index = 9999;
    b.n = 0;
    add(&b, RTM_GETLINK, 0, 12, &one, sizeof one);
    say("none", send_batch(fd, &b));
    take("none", fd, MSG_DONTWAIT);
    b.n = 0;
    add(&b, RTM_GETNEIGH, NLM_F_DUMP, 13, &one, 1);
    int strict = 1;
    setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &strict, sizeof strict);
    say("refused dump", send_batch(fd, &b));
    take("refused dump", fd, MSG_DONTWAIT);
    b.last->nlmsg_len = 4000;
    say("malformed", send_batch(fd, &b));
    take("malformed", fd, MSG_DONTWAIT);
    say("too short", send(fd, b.bytes, 7, 0));
    take("too short", fd, MSG_DONTWAIT);
}

static void routes(void) {
    struct batch b;
    int fd = route_socket(0);
    static const struct { const char *what; int type, flags, host, gateway; } table[] = {
        {"add", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 1, 9},
        {"add again", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 1, 9},
        {"replace", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 1, 8},
        {"unreachable", RTM_NEWROUTE, NLM_F_CREATE, 2, 0},
        {"delete", RTM_DELROUTE, 0, 1, 8},
        {"delete again", RTM_DELROUTE, 0, 1, 8},
    };
    for (int how = 0; how < 3; how++) {
        static const char *words[] = {"waiting", "polling", "at once"};
        printf("%s\n", words[how]);
        for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
            b.n = 0;
            route(&b, table[i].type, table[i].flags | NLM_F_ACK, 100 + i, table[i].host, table[i].gateway);
            say(table[i].what, sendto(fd, b.bytes, b.n, 0, (void *)&(struct sockaddr_nl){.nl_family = AF_NETLINK}, sizeof(struct sockaddr_nl)));
            struct pollfd p = {fd, POLLIN, 0};
            if (how == 1) printf("poll %d\n", poll(&p, 1, 10000));
            take(table[i].what, fd, how == 2 ? MSG_DONTWAIT : 0);
        }
    }
    say("nothing more", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
    struct sockaddr_nl elsewhere = {.nl_family = AF_NETLINK, .nl_pid = 4712};
    say("to another port", sendto(fd, b.bytes, b.n, 0, (void *)&elsewhere, sizeof elsewhere));
    say("to a short address", sendto(fd, b.bytes, b.n, 0, (void *)&elsewhere, 5));
    elsewhere.nl_family = AF_INET;
    say("to another family", sendto(fd, b.bytes, b.n, 0, (void *)&elsewhere, sizeof elsewhere));
}

/* zebra's way: many messages without ACK, and what is not there at once has not happened. */
static void batches(void) {
    static struct batch b;
    int fd = route_socket(0);
    for (int round = 0; round < 20; round++) {
        b.n = 0;
        for (int i = 0; i < 100; i++) new_route(&b, 0, 1000 + i, i, i % 40 == 39 ? 0 : 9);
        say("batch", send_batch(fd, &b));
        while (take("batch", fd, MSG_DONTWAIT) >= 0) {}
        b.n = 0;
        for (int i = 0; i < 100; i++) route(&b, RTM_DELROUTE, 0, 2000 + i, i, 9);
        say("back", send_batch(fd, &b));
        while (take("back", fd, MSG_DONTWAIT) >= 0) {}
    }
    /* ACK on the last only, an error before it; then on all. */
    b.n = 0;
    new_route(&b, 0, 1, 1, 0);
    new_route(&b, NLM_F_ACK, 2, 2, 9);
    say("mixed", send_batch(fd, &b));
    while (take("mixed", fd, MSG_DONTWAIT) >= 0) {}
    b.n = 0;
    for (int i = 0; i < 100; i++) new_route(&b, NLM_F_ACK, i, i, i % 40 == 39 ? 0 : 9);
    say("acked", send_batch(fd, &b));
    while (take("acked", fd, MSG_DONTWAIT) >= 0) {}
    /* A header across two buffers. */
    b.n = 0;
    route(&b, RTM_DELROUTE, NLM_F_ACK, 5, 2, 9);
    route(&b, RTM_DELROUTE, NLM_F_ACK, 6, 77, 0);
    for (size_t cut = 1; cut < b.n; cut += 5) {
        struct iovec v[3] = {{b.bytes, cut}, {NULL, 0}, {b.bytes + cut, b.n - cut}};
        struct msghdr m = {.msg_iov = v, .msg_iovlen = 3};
        say("in pieces", sendmsg(fd, &m, 0));
        while (take("in pieces", fd, MSG_DONTWAIT) >= 0) {}
    }
    /* A large batch goes in one. */
    static char large[128 << 10];
    int size = 64 << 20;
    say("room for its answers", setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size));
    b.n = 0;
    route(&b, RTM_DELROUTE, 0, 9, 250, 9);
    size_t n = 0;
    while (n + b.n <= sizeof large) memcpy(large + n, b.bytes, b.n), n += b.n;
    printf("large %d\n", send(fd, large, n, 0) == (ssize_t)n);
    int errors = 0;
    while (recv(fd, buf, sizeof buf, MSG_DONTWAIT) > 0) errors++;
    printf("errors %s\n", errors > 100 ? "many" : "few");
}

static void several(void) {
    static struct batch b[4];
    struct iovec v[4], w[4];
    struct mmsghdr out[4], in[4];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK}, from[4];
    static char bytes[4][1 << 14];
    memset(out, 0, sizeof out);
    int fd = route_socket(0);
    for (int i = 0; i < 4; i++) {
        new_route(&b[i], NLM_F_ACK, 20 + i, i / 2, 9);
        v[i] = (struct iovec){b[i].bytes, b[i].n};
        out[i].msg_hdr = (struct msghdr){.msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = &v[i], .msg_iovlen = 1};
    }
    printf("sendmmsg %d lengths %d\n", sendmmsg(fd, out, 4, 0), out[0].msg_len == b[0].n && out[3].msg_len == b[3].n);
    for (int round = 0; round < 3; round++) {
        memset(in, 0, sizeof in);
        for (int i = 0; i < 4; i++) {
            w[i] = (struct iovec){bytes[i], sizeof bytes[i]};
            in[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &w[i], .msg_iovlen = 1};
        }
        int n = recvmmsg(fd, in, round == 0 ? 2 : 4, round == 2 ? MSG_DONTWAIT : MSG_WAITFORONE, NULL);
        if (n < 0) say("recvmmsg", n);
        printf("recvmmsg %d\n", n);
        for (int i = 0; i < n; i++) {
            print_name("from", 0, &from[i], in[i].msg_hdr.msg_namelen);
            print_messages("recvmmsg", bytes[i], in[i].msg_len);
        }
    }
    out[1].msg_hdr.msg_name = &(struct sockaddr_nl){.nl_family = AF_INET};
    printf("sendmmsg up to the bad one %d\n", sendmmsg(fd, out, 4, 0));
    take("answer", fd, 0);
    say("nothing more", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
}

static void options(void) {
    int fd = route_socket(0), one = 1, value;
    socklen_t len;
    static const struct { const char *what; int name; } table[] = {
        {"ext ack", NETLINK_EXT_ACK}, {"cap ack", NETLINK_CAP_ACK}, {"strict", NETLINK_GET_STRICT_CHK},
        {"no enobufs", NETLINK_NO_ENOBUFS}, {"broadcast error", NETLINK_BROADCAST_ERROR}, {"unknown", 99}};
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        say(table[i].what, setsockopt(fd, SOL_NETLINK, table[i].name, &one, sizeof one));
        value = 42;
        len = sizeof value;
        say(table[i].what, getsockopt(fd, SOL_NETLINK, table[i].name, &value, &len));
        printf("%s %d len %u\n", table[i].what, value, len);
    }
    int group = RTNLGRP_NEXTHOP, no_group = 999999;
    say("membership", setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
    say("drop", setsockopt(fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &group, sizeof group));
    say("no such group", setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &no_group, sizeof no_group));
    say("short value", setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, 1));
    struct batch b = {.n = 0};
    new_route(&b, NLM_F_ACK, 3, 3, 0);
    send_batch(fd, &b);
    printf("extended ack %d\n", recv(fd, buf, sizeof buf, 0) > (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) && ((struct nlmsghdr *)buf)->nlmsg_flags & NLM_F_ACK_TLVS);
    int size = 1 << 20;
    say("receive buffer", setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
    say("receive buffer by force", setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size));
    say("send buffer", setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
    say("type is not to be set", setsockopt(fd, SOL_SOCKET, SO_TYPE, &size, sizeof size));
    struct timeval soon = {0, 50000};
    say("timeout", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon));
    say("recv that times out", recv(fd, buf, sizeof buf, 0));
}

/* zebra's filter on its notifications: everything but what carries its own port id. Octets as on the wire. */
static void filters(void) {
    int fd = route_socket(0), other = route_socket(0);
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_ROUTE};
    bind(fd, (void *)&a, sizeof a);
    struct sock_filter own[] = {
        BPF_STMT(BPF_LD | BPF_ABS | BPF_W, offsetof(struct nlmsghdr, nlmsg_pid)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __builtin_bswap32(4711), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
    };
    struct sock_fprog p = {4, own};
    say("filter", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p));
    p.len = 0;
    say("empty filter", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p));
    a = (struct sockaddr_nl){.nl_family = AF_NETLINK, .nl_pid = 4711};
    bind(other, (void *)&a, sizeof a);
    struct batch b;
    for (int i = 0; i < 4; i++) {
        int from = i % 2 ? fd : other;
        b.n = 0;
        route(&b, i < 2 ? RTM_NEWROUTE : RTM_DELROUTE, NLM_F_CREATE | NLM_F_ACK, 30 + i, i % 2, 9);
        b.last->nlmsg_pid = 0;
        say("route", send_batch(from, &b));
        take("answer", from, 0);
        if (from == fd) take("echo", from, 0);
    }
    say("none of the other's", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
    say("detach", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &p, sizeof p));
    b.n = 0;
    new_route(&b, NLM_F_ACK, 40, 1, 9);
    send_batch(other, &b);
    take("answer", other, 0);
    take("the other's", fd, 0);
}

static void notifications(void) {
    int fd = route_socket(SOCK_NONBLOCK), other = route_socket(0), group = RTNLGRP_IPV4_ROUTE;
    bind(fd, (void *)&(struct sockaddr_nl){.nl_family = AF_NETLINK}, sizeof(struct sockaddr_nl));
    say("membership", setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
    say("nothing yet", recv(fd, buf, sizeof buf, 0));
    struct batch b;
    for (int i = 0; i < 3; i++) {
        b.n = 0;
        new_route(&b, NLM_F_ACK, 50 + i, i, 9);
        say("route", send_batch(other, &b));
        take("answer", other, 0);
        struct pollfd p = {fd, POLLIN, 0};
        printf("poll %d in %d\n", poll(&p, 1, 10000), p.revents & POLLIN);
        take("notification", fd, 0);
    }
    say("nothing more", recv(fd, buf, sizeof buf, 0));
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    printf("poll %d out only %d\n", poll(&p, 1, 0), p.revents == POLLOUT);
}

static void ask(const char *what, int fd, unsigned seq) {
    struct batch b = {.n = 0};
    dump(&b, RTM_GETLINK, seq);
    say(what, send(fd, b.bytes, b.n, 0));
    take_all(what, fd, MSG_DONTWAIT);
}

static void duplicates(void) {
    int fd = route_socket(0), copies[4] = {dup(fd), dup2(fd, 100), dup3(fd, 101, O_CLOEXEC), fcntl(fd, F_DUPFD, 50)};
    name("by F_DUPFD", copies[3]);
    for (int i = 0; i < 4; i++) ask("copy", copies[i], 60 + i);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        ask("child", fd, 70);
        int own = route_socket(0);
        ask("child's own", own, 71);
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    ask("parent", fd, 72);
    /* The number comes to mean something else. */
    close(fd);
    int pipes[2], pair[2];
    if (pipe(pipes)) DIE("pipe");
    dup2(pipes[0], fd);
    say("write to a pipe", write(pipes[1], "four", 4));
    printf("read from a pipe %zd\n", read(fd, buf, sizeof buf));
    close(fd);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) DIE("socketpair");
    dup2(pair[0], copies[1]);
    say("send on a pair", send(pair[1], "four", 4, 0));
    printf("receive on a pair %zd\n", recv(copies[1], buf, sizeof buf, 0));
    ask("copy", copies[0], 73);
    for (int i = 0; i < 600; i++) {
        int one = route_socket(0);
        if (one < 0 || close(one)) DIE("many");
    }
    ask("copy after many others", copies[0], 74);
    ask("fresh after many others", route_socket(0), 75);
    /* Even a request goes where the number leads now. */
    struct batch b = {.n = 0};
    dump(&b, RTM_GETLINK, 76);
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) DIE("pipe or pair");
    dup2(pipes[1], copies[2]);
    dup2(pair[1], copies[3]);
    for (int i = 0; i < 2; i++) {
        say("request to a pipe", write(copies[2], b.bytes, b.n));
        printf("read from a pipe %zd\n", read(pipes[0], buf, sizeof buf));
        say("request to a pair", send(copies[3], b.bytes, b.n, 0));
        printf("receive on a pair %zd\n", recv(pair[0], buf, sizeof buf, 0));
    }
    ask("copy", copies[0], 77);
    /* Closed in other ways. */
    fflush(stdout);
    for (int way = 0; way < 3; way++) {
        pid = fork();
        if (pid == 0) {
            int one = route_socket(0);
            ask("closed soon", one, 80);
            if (way == 0) closefrom(3);
            if (way == 1) close_range(3, ~0U, 0);
            if (way == 2) syscall(SYS_close, one);
            int ends[2], again = way == 2 ? socket(AF_UNIX, SOCK_SEQPACKET, 0) : -1;
            if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends)) DIE("socketpair");
            if (way < 2) again = fcntl(ends[0], F_DUPFD, one);
            printf("the number comes again %d\n", again == one);
            name("another socket", one);
            say("to another socket", send(one, b.bytes, b.n, MSG_NOSIGNAL));
            if (way < 2) {
                printf("at its end %zd\n", recv(ends[1], buf, sizeof buf, 0));
                say("from its end", send(ends[1], "four", 4, 0));
                printf("at another socket %zd\n", recv(one, buf, sizeof buf, 0));
            }
            fflush(stdout);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    close(copies[0]);
    say("closed", send(copies[0], "x", 1, 0));
    say("closed, request", send(copies[0], b.bytes, b.n, 0));
}

static void others(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC), type = 0, domain = 0, protocol = 0;
    socklen_t len = sizeof type;
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len);
    printf("type %d domain %d protocol %d\n", type, domain, protocol);
    /* CTRL_CMD_GETFAMILY of "nlctrl". */
    struct batch b = {.n = 0};
    unsigned char body[4] = {3, 1};
    add(&b, 0x10, NLM_F_ACK, 80, body, sizeof body);
    attribute(&b, 2, "nlctrl", 7);
    say("generic", send_batch(fd, &b));
    take("generic", fd, 0);
    take("generic", fd, 0);
    name("generic", fd);
    say("no such family", socket(AF_NETLINK, SOCK_RAW, 30));
    say("datagram", socket(AF_INET, SOCK_DGRAM, 0));
}

static void lose(int fd) {
    struct batch b = {.n = 0};
    add(&b, NLMSG_OVERRUN, 0, 1, NULL, 0);
    if (send(fd, b.bytes, b.n, 0) < 0) DIE("send");
}

/* Under the shim only: the broker says that notifications were lost. */
static void lost(void) {
    int fd = route_socket(0);
    lose(fd);
    say("recv", recv(fd, buf, sizeof buf, 0));
    say("again", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
    lose(fd);
    say("recv into no room", recv(fd, NULL, 0, 0));
    lose(fd);
    say("peek", recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC));
    say("again", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
    struct sock_filter own[] = {BPF_STMT(BPF_LD | BPF_ABS | BPF_W, 12), BPF_STMT(BPF_RET | BPF_K, 0xffff)};
    struct sock_fprog p = {2, own};
    say("filter", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p));
    lose(fd);
    take("through a filter", fd, MSG_DONTWAIT);
    struct ifinfomsg one = {.ifi_index = 1};
    struct batch b = {.n = 0};
    add(&b, RTM_GETLINK, 0, 2, &one, sizeof one);
    say("one link", send_batch(fd, &b));
    lose(fd);
    struct iovec v = {buf, sizeof buf};
    struct mmsghdr in[2] = {{.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}}};
    printf("recvmmsg %d\n", recvmmsg(fd, in, 2, 0, NULL));
    say("then", recv(fd, buf, sizeof buf, 0));
    say("again", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
}

/* The broker dies at the first word. */
static void orphan(void) {
    int fd = route_socket(0), quick = route_socket(SOCK_NONBLOCK);
    ask("alive", fd, 1);
    printf("ready\n");
    fflush(stdout);
    if (read(0, buf, 1) != 1) DIE("a word");
    struct pollfd p = {fd, POLLIN, 0};
    printf("poll %d\n", poll(&p, 1, 10000));
    say("recv", recv(fd, buf, sizeof buf, 0));
    say("recv at once", recv(quick, buf, sizeof buf, 0));
    struct batch b = {.n = 0};
    dump(&b, RTM_GETLINK, 1);
    say("send", send_batch(fd, &b));
    b.n = 0;
    new_route(&b, 0, 2, 1, 9);
    say("send without ack", send_batch(fd, &b));
    struct sockaddr_nl a = {.nl_family = AF_NETLINK};
    socklen_t len = sizeof a;
    say("getsockname", getsockname(fd, (void *)&a, &len));
    say("bind", bind(fd, (void *)&a, sizeof a));
    say("option", setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &len, sizeof len));
    say("socket", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    others();
}

/* BIRD's way: one route, then its answer. */
static void one(const char *what, int fd, int type, int flags, unsigned seq, int host, int gateway) {
    struct batch b = {.n = 0};
    route(&b, type, flags | NLM_F_ACK, seq, host, gateway);
    say(what, send_batch(fd, &b));
    take(what, fd, 0);
}

static void count_routes(int fd) {
    struct batch b = {.n = 0};
    dump(&b, RTM_GETROUTE, 600);
    say("dump", send_batch(fd, &b));
    int n = 0, more = 1;
    while (more) {
        ssize_t got = recv(fd, buf, sizeof buf, 0);
        for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, got); h = NLMSG_NEXT(h, got)) {
            if (h->nlmsg_type == NLMSG_DONE) more = 0;
            else if (((struct rtmsg *)NLMSG_DATA(h))->rtm_protocol == 186) n++;
        }
    }
    printf("%d routes\n", n);
}

static void habit(void) {
    int fd = route_socket(0), other = route_socket(SOCK_NONBLOCK);
    for (int i = 0; i < 60; i++) one("add", fd, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 100 + i, i, 8 + i % 2);
    for (int i = 0; i < 60; i++) one("delete", fd, RTM_DELROUTE, 0, 200 + i, i, 8 + i % 2);
    /* Ways to receive an answer. */
    static const int flags[] = {MSG_PEEK, MSG_PEEK | MSG_TRUNC, 0, MSG_TRUNC, MSG_DONTWAIT};
    for (int i = 0; i < 5; i++) {
        struct batch b = {.n = 0};
        new_route(&b, NLM_F_ACK, 300 + i, i, 8);
        say("add", send_batch(fd, &b));
        take("received", fd, flags[i]);
        if (flags[i] & MSG_PEEK) take("after a peek", fd, 0);
    }
    struct batch b = {.n = 0};
    new_route(&b, NLM_F_ACK, 400, 77, 8);
    say("add", send_batch(fd, &b));
    say("into no room", recv(fd, buf, 5, 0));
    say("nothing more", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
    /* Two at once are answered one after the other. */
    for (int i = 0; i < 2; i++) {
        b.n = 0;
        new_route(&b, NLM_F_ACK, 410 + i, 80 + i, 8);
        say("add", send_batch(fd, &b));
    }
    take("first", fd, 0);
    take("second", fd, 0);
    for (int i = 0; i < 40; i++) one("polling", other, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 500 + i, 100 + i, 8);
    count_routes(fd);
}

/* What is refused after it was answered. */
static void hasty(void) {
    int fd = route_socket(0);
    for (int i = 0; i < 20; i++) one("add", fd, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 100 + i, i, 9);
    one("there already", fd, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 200, 0, 9);
    struct pollfd p = {fd, POLLIN, 0};
    printf("poll %d\n", poll(&p, 1, 10000));
    for (int i = 0; i < 20; i++) one("there already", fd, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 300 + i, i, 9);
    for (int i = 0; i < 20; i++) one("add", fd, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 400 + i, 100 + i, 9);
    /* The broker has seen it all. */
    count_routes(fd);
}

/* virtd was never there. */
static void absent(void) {
    say("socket", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    others();
}

static void elsewhere(void) {
    say("here", route_socket(0));
    if (unshare(CLONE_NEWNET)) DIE("unshare");
    say("there", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
}

/* virtd will not have it: its number is free again, and nobody's mark stays on it. */
static void refused(void) {
    int pair[2];
    say("refused", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) DIE("socketpair");
    say("its number", send(pair[0], "four", 4, 0));
    printf("at the other end %zd\n", recv(pair[1], buf, sizeof buf, 0));
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*f)(void); } table[] = {
        {"names", names},   {"dumps", dumps},     {"routes", routes},   {"batches", batches}, {"several", several},
        {"options", options}, {"filters", filters}, {"notifications", notifications},
        {"duplicates", duplicates}, {"others", others},
        {"habit", habit},   {"hasty", hasty},
        {"lost", lost},     {"orphan", orphan},   {"absent", absent},   {"elsewhere", elsewhere},
        {"refused", refused}};
    static char out[1 << 16];
    setvbuf(stdout, out, _IOFBF, sizeof out);
    if (argc != 2) return 2;
    alarm(60);
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].name, argv[1])) {
            table[i].f();
            printf("end\n");
            return 0;
        }
    return 2;
}
