/* Clients that do what a server finds hardest, without pause, and read what comes.
 *
 * All are on one thread of the policy SCHED_IDLE: it has the core whenever the load's own thread
 * does not want it, and gives it back at once. So what is measured is the wait for the server, and
 * not for this process. (A mere niceness would do less: since EEVDF, Linux lets a nice thread
 * finish its slice, some milliseconds.)
 *
 * What they send stands in memory beforehand, frames and masks and all; what comes is not looked
 * at. A client that is closed connects again. Nothing but the sockets' buffers holds them back,
 * except that requests of HTTP go out 300 at a time: the next ones when all have been answered.
 */
#define _GNU_SOURCE
#include "load.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#ifndef NO_TLS
#include <openssl/err.h>
#endif

const char *const hostilities[] = {"pings", "fragments", "tiny-deflate", "deflate",
                                   "bomb",  "http",      NULL};

/* Bytes that a client sends, or reads, before it is the next one's turn. */
#define TURN (64 << 10)

/* Bytes of frames that are sent again and again; a whole message at least. */
#define SCRIPT (64 << 10)

#define REQUESTS 300

/* Seconds in which all clients must have been let in. */
#define ENTRY 10

enum state { CONNECTING, SECURING, UPGRADING, INSIDE };

struct hostile {
    int fd;
    enum state state;
    size_t at;        /* in the script, or in the request for the upgrade */
    int matched;      /* bytes of ANSWER that were the last to come */
    int unanswered;   /* requests of HTTP */
    uint32_t watched;
#ifndef NO_TLS
    SSL *tls;
#endif
};

static const char ANSWER[] = "HTTP/1.1 ";

static enum hostility kind;
static int isSecure;
static struct hostile *hostiles;
static int count;
static uint8_t *script;
static size_t scriptLength;
static char request[1024];
static int requestLength;
static int epoll;
static uint8_t scratch[TURN];
static int isWar; /* all are inside: begin */
static atomic_int inside;
static _Atomic uint64_t cameBytes, reconnects;

static void writeScript(void)
{
    static uint8_t plain[15 << 20];
    uint8_t *packed = room(1, SCRIPT * 2), one = 'a';
    size_t length = 0, space = SCRIPT * 2;
    script = room(1, space);
    switch (kind) {
    case PINGS:
        while (length < SCRIPT)
            length += frame(script + length, 0x89, &one, 1);
        break;
    case FRAGMENTS:
        memset(plain, 'a', 3000);
        while (length < SCRIPT)
            length += fragmented(script + length, 1, plain, 3000, 3000);
        break;
    case TINY_DEFLATE: {
        size_t size = compressed(&one, 1, packed, space);
        while (length < SCRIPT)
            length += frame(script + length, 0xc1, packed, size);
        break;
    }
    case DEFLATE: {
        fill(plain, 64 << 10, JSON);
        size_t size = compressed(plain, 64 << 10, packed, space);
        while (length < SCRIPT)
            length += frame(script + length, 0xc1, packed, size);
        break;
    }
    case BOMB: {
        size_t size = compressed(plain, sizeof plain, packed, space);
        length = frame(script, 0xc2, packed, size);
        break;
    }
    case HTTP:
        for (int i = 0; i < REQUESTS; i++)
            length += sprintf((char *)script + length, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        break;
    case PEACE:
        break;
    }
    scriptLength = length;
    free(packed);
}

static void watch(struct hostile *h, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = h};
    if (h->watched == events)
        return;
    if (epoll_ctl(epoll, h->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, h->fd, &event))
        end(USAGE, "epoll: %s", strerror(errno));
    h->watched = events;
}

static void enter(struct hostile *h)
{
    /* Not the load's own addresses: each has 28,000 ports. */
    static uint32_t number;
    int one = 1;
    struct sockaddr_in mine = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(0x7f000201 + number++ % 32)};
    memset(h, 0, sizeof *h);
    h->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (h->fd < 0)
        end(USAGE, "socket: %s", strerror(errno));
    setsockopt(h->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(h->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(h->fd, (struct sockaddr *)&mine, sizeof mine))
        end(USAGE, "bind: %s", strerror(errno));
    if (connect(h->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        end(FAILED, "connect: %s", strerror(errno));
    watch(h, EPOLLOUT);
}

static void enterAgain(struct hostile *h)
{
    reconnects++;
#ifndef NO_TLS
    SSL_free(h->tls);
    ERR_clear_error();
#endif
    close(h->fd);
    enter(h);
}

/* Both return the bytes, 0 if there is nothing to be done now, -1 if the connection is no more. */

static ssize_t give(struct hostile *h, const void *from, size_t length)
{
#ifndef NO_TLS
    if (h->tls) {
        int n = SSL_write(h->tls, from, length);
        if (n > 0)
            return n;
        return SSL_get_error(h->tls, n) == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
#endif
    ssize_t n = send(h->fd, from, length, MSG_NOSIGNAL);
    return n < 0 && errno == EAGAIN ? 0 : n;
}

static ssize_t take(struct hostile *h, void *to, size_t space)
{
#ifndef NO_TLS
    if (h->tls) {
        int n = SSL_read(h->tls, to, space);
        if (n > 0)
            return n;
        return SSL_get_error(h->tls, n) == SSL_ERROR_WANT_READ ? 0 : -1;
    }
#endif
    ssize_t n = recv(h->fd, to, space, 0);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    return n ? n : -1;
}

static void begin(struct hostile *h)
{
    h->state = INSIDE;
    h->at = 0;
    inside++;
    watch(h, EPOLLIN | (isWar ? EPOLLOUT : 0));
}

static void upgrade(struct hostile *h)
{
    if (kind == HTTP) {
        begin(h);
        return;
    }
    h->state = UPGRADING;
    if (give(h, request, requestLength) != requestLength)
        enterAgain(h);
    else
        watch(h, EPOLLIN);
}

static void secure(struct hostile *h)
{
#ifndef NO_TLS
    int done = SSL_connect(h->tls);
    if (done == 1)
        upgrade(h);
    else if (SSL_get_error(h->tls, done) == SSL_ERROR_WANT_READ)
        watch(h, EPOLLIN);
    else
        enterAgain(h);
#else
    (void)h;
#endif
}

static void connected(struct hostile *h)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(h->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        end(FAILED, "a hostile client: %s", strerror(error));
#ifndef NO_TLS
    if (isSecure) {
        h->tls = SSL_new(tlsContext);
        SSL_set_fd(h->tls, h->fd);
        h->state = SECURING;
        secure(h);
        return;
    }
#endif
    upgrade(h);
}

static void readUpgrade(struct hostile *h)
{
    /* The load itself looks closer; here it is enough that it is one, in one piece. */
    ssize_t n = take(h, scratch, sizeof scratch);
    if (n < 0)
        enterAgain(h);
    else if (n > 0 && strncmp((char *)scratch, "HTTP/1.1 101", 12) != 0)
        end(FAILED, "a hostile client's upgrade was answered with: %.12s", scratch);
    else if (n > 0)
        begin(h);
}

/* Returns 0 if the connection is no more. */
static int readAnything(struct hostile *h)
{
    for (size_t had = 0; had < TURN;) {
        ssize_t n = take(h, scratch, sizeof scratch);
        if (n < 0)
            enterAgain(h);
        if (n <= 0)
            return n == 0;
        had += n;
        cameBytes += n;
        if (kind == HTTP)
            for (ssize_t i = 0; i < n; i++) {
                h->matched = scratch[i] == ANSWER[h->matched] ? h->matched + 1 : scratch[i] == 'H';
                if (h->matched == sizeof ANSWER - 1) {
                    h->matched = 0;
                    h->unanswered--;
                }
            }
    }
    return 1;
}

static void attack(struct hostile *h)
{
    for (size_t sent = 0; sent < TURN;) {
        if (kind == HTTP && h->at == 0 && h->unanswered > 0)
            break;
        if (kind == HTTP && h->at == 0)
            h->unanswered = REQUESTS;
        ssize_t n = give(h, script + h->at, scriptLength - h->at);
        if (n < 0)
            enterAgain(h);
        if (n <= 0)
            return;
        sent += n;
        h->at = (h->at + n) % scriptLength;
    }
    int mustWait = kind == HTTP && h->at == 0 && h->unanswered > 0;
    watch(h, EPOLLIN | (mustWait ? 0 : EPOLLOUT));
}

static void happened(struct hostile *h)
{
    switch (h->state) {
    case CONNECTING: connected(h); break;
    case SECURING: secure(h); break;
    case UPGRADING: readUpgrade(h); break;
    case INSIDE:
        if (readAnything(h) && isWar)
            attack(h);
        break;
    }
}

static void *war(void *unused)
{
    static struct epoll_event events[256];
    struct sched_param none = {0};
    (void)unused;
    if (sched_setscheduler(0, SCHED_IDLE, &none))
        end(USAGE, "SCHED_IDLE: %s", strerror(errno));
    for (int i = 0; i < count; i++)
        enter(hostiles + i);
    for (;;) {
        if (!isWar && inside >= count) {
            isWar = 1;
            for (int i = 0; i < count; i++)
                watch(hostiles + i, EPOLLIN | EPOLLOUT);
        }
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < ready; i++)
            happened(events[i].data.ptr);
    }
    return NULL;
}

void startHostiles(enum hostility hostility, int clients, int tls, const char *path)
{
    pthread_t thread;
    kind = hostility;
    count = clients;
    isSecure = tls;
    hostiles = room(count, sizeof *hostiles);
    epoll = epoll_create1(0);
    requestLength = upgradeRequest(request, sizeof request, path,
                                   kind == TINY_DEFLATE || kind == DEFLATE || kind == BOMB);
    writeScript();
    if (pthread_create(&thread, NULL, war, NULL))
        end(USAGE, "no thread");
    uint64_t last = now() + ENTRY * SECOND;
    while (inside < count) {
        if (now() > last)
            end(FAILED, "of %d hostile clients %d were let in", count, inside);
        usleep(1000);
    }
}

struct attack attackSoFar(void)
{
    return (struct attack){cameBytes, reconnects};
}
