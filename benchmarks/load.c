/* The load: asks a WebSocket server for echoes, as fast as it answers, and checks every byte.
 *
 *     gcc -O2 -march=native -pthread -o load load.c hostile.c -lz -lssl -lcrypto
 *     taskset -c 1 ./load --port 8080 --connections 50 --size 125 --pid $(pidof floor)
 *
 * (without OpenSSL's headers: add -DNO_TLS and leave out -lssl -lcrypto; --tls then says so.)
 *
 * One thread and one epoll, in a closed loop: each connection keeps --inflight messages under
 * way, and sends the next ones when echoes arrive. It must be able to outrun a bare loop in C
 * (floor.c), so whatever can be done before the run is:
 *
 * - The frames that a connection sends stand in memory, masked, one behind the other, a cycle of
 *   some dozens: what is to be sent is a piece of that, whatever the number of messages.
 * - So do their echoes: what arrives is compared with the piece that is due, by memcmp, frame
 *   headers included. The messages of a cycle differ, and every connection begins at another
 *   one, so an echo that is lost, doubled, swapped or of somebody else is seen as a wrong byte.
 * - The compressed form of an echo is the server's to choose. The first of each message is
 *   inflated and compared; from then on the same bytes stand for the same text.
 * - So is the way that a fragmented message, or a compressed one, is cut into frames: there the
 *   frames are read one by one, joined, and compared by what they carry.
 *
 * A control frame in between (a ping) is no echo and ends the run: servers are to be told not to
 * ping a client that is busy, or to wait for longer than the run takes. With --pings the messages
 * are pings, and their echoes are the pongs.
 *
 * With --mode newcomers it is one client that connects, upgrades, has one echo, closes, and comes
 * again, while --hostile clients (hostile.c) keep the server busy from a thread that runs only
 * when this one has nothing to do.
 *
 * The latency of a message is the time from the send() that it was part of, or would have been
 * had the socket taken it, to the recv() that brought the last byte of its echo.
 */
#define _GNU_SOURCE
#include "load.h"
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>
#ifndef NO_TLS
#include <openssl/err.h>
#endif

/* What one recv() may bring. It stays in the cache together with the echoes that it is compared
 * with. */
#define READ (256 << 10)

/* A large message must not keep the small ones waiting in this process: at most so much of it
 * goes out at a time. */
#define WRITE (256 << 10)

/* Bytes of messages in a cycle: small enough for the innermost caches. */
#define CYCLE (16 << 10)

/* Bytes of an answer to the handshake, at most. */
#define TEXT 4096

/* Connections that are opened at the same time. Some servers keep a backlog of 50. */
#define OPENING 32

/* Seconds without any progress after which the server is taken for stuck. */
#define STUCK 15

/* Seconds that the last newcomer is waited for when the others are measured. */
#define LONGEST 5

/* ---- Ends. */

void end(int status, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    exit(status);
}

uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

void *room(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        end(USAGE, "out of memory");
    return memory;
}

/* ---- What is asked for. */

enum mode { ECHO, HANDSHAKES, IDLE, NEWCOMERS };

static struct {
    const char *host, *path;
    int port;
    enum mode mode;
    int connections;
    size_t size;
    enum kind kind;
    int inflight;
    double seconds, warmup;
    int pid;
    int deflate, tls;
    int fragments, pings;
    enum hostility hostility;
    int hostiles;
    int heavy;
    size_t heavySize;
} asked = {.host = "127.0.0.1", .path = "/", .connections = 50, .size = 125, .inflight = 1,
           .seconds = 3, .warmup = 1, .fragments = 1, .hostiles = 20, .heavySize = 4 << 20};

static const char manual[] =
    "usage: load --port N [options]; prints one line of JSON\n"
    "  --host 127.0.0.1      loopback only\n"
    "  --path /              of the WebSocket\n"
    "  --mode echo           messages a second\n"
    "         handshakes     connections a second, each upgraded and closed; --connections at once\n"
    "         idle           memory of --connections that are open and silent\n"
    "         newcomers      the wait of one client that connects, has an echo, and closes\n"
    "  --connections 50\n"
    "  --size 125            bytes of a message\n"
    "  --kind binary         or ascii, text3 (text of three-byte characters), json\n"
    "  --inflight 1          messages under way on each connection\n"
    "  --seconds 3           measured, after\n"
    "  --warmup 1            seconds that are not\n"
    "  --pid N               of the server: its CPU time and memory are measured too\n"
    "  --deflate             permessage-deflate, without context takeover on both sides\n"
    "  --tls                 certificates are not verified\n"
    "  --fragments 1         frames of a message; its echo may be cut otherwise\n"
    "  --pings               pings instead of messages; --size is 125 at most\n"
    "  --hostile KIND        beside newcomers, without pause: pings, fragments (messages of 3,000),\n"
    "                        tiny-deflate (one byte each), deflate (64 KB of JSON each),\n"
    "                        bomb (15 MB of zeros each), http (GET /, 300 at a time)\n"
    "  --hostiles 20         so many clients do it\n"
    "  --heavy 0             connections beside those, with one message of --heavy-size 4194304\n"
    "                        under way on each; only the others' latency is then told\n";

static long number(const char *text, long least, long most, const char *name)
{
    char *rest;
    long value = strtol(text, &rest, 10);
    if (*text == 0 || *rest || value < least || value > most)
        end(USAGE, "--%s takes a number from %ld to %ld", name, least, most);
    return value;
}

static double duration(const char *text, const char *name)
{
    char *rest;
    double value = strtod(text, &rest);
    if (*text == 0 || *rest || !(value >= 0 && value <= 600))
        end(USAGE, "--%s takes seconds, 600 at most", name);
    return value;
}

static int choice(const char *text, const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    end(USAGE, "--%s does not take %s", name, text);
}

static void parse(int count, char **arguments)
{
    static const char *const kinds[] = {"binary", "ascii", "text3", "json", NULL};
    static const char *const modes[] = {"echo", "handshakes", "idle", "newcomers", NULL};
    static const struct option options[] = {
        {"host", 1, 0, 'h'},      {"path", 1, 0, 'a'},    {"port", 1, 0, 'p'},
        {"mode", 1, 0, 'm'},      {"connections", 1, 0, 'c'}, {"size", 1, 0, 's'},
        {"kind", 1, 0, 'k'},      {"inflight", 1, 0, 'i'}, {"seconds", 1, 0, 't'},
        {"warmup", 1, 0, 'w'},    {"pid", 1, 0, 'P'},     {"deflate", 0, 0, 'd'},
        {"tls", 0, 0, 'T'},       {"heavy", 1, 0, 'H'},   {"heavy-size", 1, 0, 'S'},
        {"fragments", 1, 0, 'f'}, {"pings", 0, 0, 'g'},   {"hostile", 1, 0, 'x'},
        {"hostiles", 1, 0, 'X'},
        {"help", 0, 0, '?'},      {0}};
    int at, option;
    while ((option = getopt_long(count, arguments, "", options, &at)) != -1) {
        const char *name = option == '?' ? "" : options[at].name;
        switch (option) {
        case 'h': asked.host = optarg; break;
        case 'a': asked.path = optarg; break;
        case 'p': asked.port = number(optarg, 1, 65535, name); break;
        case 'm': asked.mode = choice(optarg, modes, name); break;
        case 'c': asked.connections = number(optarg, 1, 50000, name); break;
        case 's': asked.size = number(optarg, 16, 64 << 20, name); break;
        case 'k': asked.kind = choice(optarg, kinds, name); break;
        case 'i': asked.inflight = number(optarg, 1, 1024, name); break;
        case 't': asked.seconds = duration(optarg, name); break;
        case 'w': asked.warmup = duration(optarg, name); break;
        case 'P': asked.pid = number(optarg, 1, 1 << 22, name); break;
        case 'd': asked.deflate = 1; break;
        case 'T': asked.tls = 1; break;
        case 'f': asked.fragments = number(optarg, 1, 10000, name); break;
        case 'g': asked.pings = 1; break;
        case 'x': asked.hostility = 1 + choice(optarg, hostilities, name); break;
        case 'X': asked.hostiles = number(optarg, 1, 1000, name); break;
        case 'H': asked.heavy = number(optarg, 0, 1000, name); break;
        case 'S': asked.heavySize = number(optarg, 16, 64 << 20, name); break;
        default: fputs(manual, stderr); exit(USAGE);
        }
    }
    if (asked.port == 0 || optind < count) {
        fputs(manual, stderr);
        exit(USAGE);
    }
    if (asked.seconds == 0)
        end(USAGE, "--seconds takes more than 0");
    if (strncmp(asked.host, "127.", 4) != 0)
        end(USAGE, "--host takes an address of the loopback: this is no tool to attack with");
    if (strpbrk(asked.path, " \r\n") || asked.path[0] != '/')
        end(USAGE, "--path takes a path such as /echo");
    if (asked.heavy && (asked.mode != ECHO || asked.deflate || asked.fragments > 1 || asked.pings))
        end(USAGE, "--heavy goes with --mode echo, of plain messages in one piece");
    if (asked.hostility && asked.mode != NEWCOMERS)
        end(USAGE, "--hostile goes with --mode newcomers");
    if (asked.pings && (asked.deflate || asked.fragments > 1 || asked.size > 125))
        end(USAGE, "--pings are neither compressed nor fragmented, nor of more than 125 bytes");
    if ((size_t)asked.fragments > asked.size)
        end(USAGE, "--fragments takes the bytes of a message at most");
    if (asked.mode == NEWCOMERS)
        asked.connections = asked.inflight = 1;
#ifdef NO_TLS
    if (asked.tls)
        end(USAGE, "--tls is not built: OpenSSL's headers were not there");
#endif
}

/* ---- Messages. */

/* A plan is what a group of connections sends, and what must come back. */
struct plan {
    int messages, inflight;
    size_t size;
    uint8_t *payloads; /* plain, `size` bytes each */
    uint8_t *frames;   /* those of the cycle, and then its first ones again, so that what is in
                          flight is always one piece */
    size_t *starts;    /* where each begins; starts[messages] is where the cycle ends */
    uint8_t *echoes;   /* the same, of a server: not masked. NULL if it is for the server to say
                          what they look like: then frames are read one by one */
    size_t echo, echoCycle;
    uint8_t **known;   /* the compressed echo of each message, once it was inflated and compared */
    size_t *knownLength;
    int isHeavy;
};

static uint64_t seed = 20;

/* splitmix64, so that each run sends the same. */
static uint64_t random64(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Objects as a telemetry API sends them: keys that repeat, values that do not. */
static void fillJson(uint8_t *to, size_t size)
{
    static const char *const states[] = {"running", "stopped", "degraded", "starting"};
    char *text = room(1, size + 256);
    size_t length = snprintf(text, 256, "{\"items\":[");
    while (length < size) {
        uint64_t r = random64();
        length += snprintf(text + length, 256,
                           "{\"id\":%u,\"name\":\"sensor-%03u\",\"state\":\"%s\",\"value\":%.3f,"
                           "\"time\":\"2026-01-%02uT%02u:%02u:%02uZ\"},",
                           (unsigned)(r & 0xfffff), (unsigned)(r >> 20 & 511), states[r >> 29 & 3],
                           (r >> 31 & 0xffff) / 100.0, (unsigned)(1 + (r >> 47 & 15)),
                           (unsigned)(r >> 51 & 15), (unsigned)(10 + (r >> 55 & 31)),
                           (unsigned)(10 + (r >> 60 & 15)));
    }
    memcpy(to, text, size); /* It may end in the middle of an object: an echo does not mind. */
    free(text);
}

void fill(uint8_t *to, size_t size, enum kind kind)
{
    size_t i = 0;
    switch (kind) {
    case BINARY:
        for (; i + 8 <= size; i += 8) {
            uint64_t r = random64();
            memcpy(to + i, &r, 8);
        }
        break;
    case ASCII:
        for (; i < size; i++)
            to[i] = ' ' + random64() % 95;
        break;
    case TEXT3:
        for (; i + 3 <= size; i += 3) {
            unsigned c = 0x4e00 + random64() % 0x5000; /* Chinese characters */
            to[i] = 0xe0 | c >> 12;
            to[i + 1] = 0x80 | (c >> 6 & 63);
            to[i + 2] = 0x80 | (c & 63);
        }
        break;
    case JSON:
        fillJson(to, size);
        return;
    }
    for (; i < size; i++)
        to[i] = 'a' + random64() % 26;
}

static size_t header(uint8_t *to, uint8_t first, uint8_t masked, size_t size)
{
    to[0] = first;
    if (size < 126) {
        to[1] = masked | size;
        return 2;
    }
    int bytes = size < 65536 ? 2 : 8;
    to[1] = masked | (bytes == 2 ? 126 : 127);
    for (int i = 0; i < bytes; i++)
        to[2 + i] = (uint64_t)size >> (bytes - 1 - i) * 8;
    return 2 + bytes;
}

size_t frame(uint8_t *to, uint8_t first, const uint8_t *payload, size_t size)
{
    size_t h = header(to, first, 0x80, size);
    uint32_t mask = random64();
    memcpy(to + h, &mask, 4);
    for (size_t i = 0; i < size; i++)
        to[h + 4 + i] = payload[i] ^ to[h + (i & 3)];
    return h + 4 + size;
}

size_t fragmented(uint8_t *to, uint8_t first, const uint8_t *payload, size_t size, int fragments)
{
    size_t length = 0;
    for (int i = 0; i < fragments; i++) {
        size_t from = size * i / fragments, until = size * (i + 1) / fragments;
        uint8_t end = i == fragments - 1 ? 0x80 : 0;
        length += frame(to + length, (i ? 0 : first) | end, payload + from, until - from);
    }
    return length;
}

/* RFC 7692, 7.2.1: deflate, flush, and take 00 00 ff ff away. */
size_t compressed(const uint8_t *from, size_t size, uint8_t *to, size_t space)
{
    z_stream z = {.next_in = (uint8_t *)from, .avail_in = size, .next_out = to, .avail_out = space};
    if (deflateInit2(&z, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        end(USAGE, "out of memory");
    deflate(&z, Z_SYNC_FLUSH);
    size_t length = space - z.avail_out - 4;
    deflateEnd(&z);
    return length;
}

static struct plan *newPlan(size_t size, enum kind kind, int inflight)
{
    int deflate = asked.deflate;
    struct plan *plan = room(1, sizeof *plan);
    size_t cycle = CYCLE / size;
    plan->size = size;
    plan->inflight = inflight;
    /* At least one more than in flight, so that all of those differ from each other and from the
     * next one; no more of the large ones, which would only be fetched from further away. */
    plan->messages = (int)cycle > inflight ? (int)cycle | 1 : inflight + 1;
    int all = plan->messages + inflight;
    size_t space = size + size / 8 + 64 + 14 * (size_t)asked.fragments;
    if (all * (space + size) * 2 > 2ull << 30)
        end(USAGE, "--size times --inflight is more than fits");
    plan->payloads = room(plan->messages, size);
    plan->frames = room(all, space);
    plan->starts = room(all + 1, sizeof *plan->starts);
    uint8_t first = kind == BINARY ? 2 : 1, head[14];
    if (asked.pings)
        first = 9;
    uint8_t *packed = room(1, space);
    for (int i = 0; i < all; i++) {
        uint8_t *at = plan->frames + plan->starts[i];
        if (i >= plan->messages) {
            int same = i - plan->messages;
            size_t length = plan->starts[same + 1] - plan->starts[same];
            memcpy(at, plan->frames + plan->starts[same], length);
            plan->starts[i + 1] = plan->starts[i] + length;
            continue;
        }
        uint8_t *payload = plan->payloads + i * size;
        fill(payload, size, kind);
        const uint8_t *from = payload;
        size_t length = size;
        if (deflate) {
            length = compressed(payload, size, packed, space);
            from = packed;
        }
        plan->starts[i + 1] = plan->starts[i] + fragmented(at, first | (deflate ? 0x40 : 0), from,
                                                           length, asked.fragments);
    }
    free(packed);
    first = 0x80 | (asked.pings ? 10 : first);
    plan->echo = header(head, first, 0, size) + size;
    if (deflate) {
        plan->known = room(plan->messages, sizeof *plan->known);
        plan->knownLength = room(plan->messages, sizeof *plan->knownLength);
    } else if (asked.fragments == 1) {
        plan->echoCycle = plan->messages * plan->echo;
        plan->echoes = room(plan->messages, plan->echo);
        for (int i = 0; i < plan->messages; i++) {
            uint8_t *at = plan->echoes + i * plan->echo;
            size_t h = header(at, first, 0, size);
            memcpy(at + h, plan->payloads + i * size, size);
        }
    }
    return plan;
}

/* ---- Latencies: a histogram whose steps are a 64th of the value. */

#define STEPS 64
static uint32_t histogram[36 * STEPS];
static uint64_t histogramCount;

static void record(uint64_t latency, uint32_t count)
{
    if (latency >= 1ull << 40)
        latency = (1ull << 40) - 1;
    int shift = latency < STEPS ? 0 : 63 - __builtin_clzll(latency) - 6;
    size_t step = latency < STEPS ? latency : (shift + 1) * STEPS + (latency >> shift) - STEPS;
    histogram[step] += count;
    histogramCount += count;
}

/* In µs, the middle of the step. */
static double percentile(double part)
{
    uint64_t due = histogramCount * part, seen = 0;
    for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++) {
        seen += histogram[i];
        if (seen > due || (seen && seen == histogramCount)) {
            if (i < STEPS)
                return i / 1e3;
            int shift = i / STEPS - 1;
            return (((uint64_t)(i % STEPS + STEPS) << shift) + (1ull << shift) / 2.0) / 1e3;
        }
    }
    return 0;
}

/* ---- Connections. */

enum state { UNUSED, CONNECTING, SECURING, UPGRADING, OPEN, CLOSING };

/* Messages that were sent at the same time. */
struct batch {
    uint64_t at;
    int messages;
};

struct connection {
    int fd, index;
    enum state state;
    struct plan *plan;
    uint64_t begun;          /* to connect */
    size_t sendAt, unsent;   /* where in the cycle of frames, and how many bytes are due */
    int isWaiting;           /* for the socket to take more */
    size_t echoAt;           /* where in the cycle of echoes; where frames are read: its message */
    size_t echoPart;         /* bytes of the echo that is due which have come */
    int next;                /* the message to send */
    int underway;
    struct batch *batches;   /* a ring of inflight + 1 */
    int firstBatch, lastBatch;
    uint8_t *in;             /* an answer to the handshake, or frames, not yet whole */
    size_t inLength, inSpace;
    uint8_t *joined;         /* the payloads of a fragmented echo */
    size_t joinedLength;
    uint8_t joinedFirst;     /* byte of its first frame; 0 if none is under way */
#ifndef NO_TLS
    SSL *tls;
#endif
};

static int lightEpoll, heavyEpoll;
static int goOn;             /* an echo is followed by the next message */
static int measuring;
static int unfinished;       /* connections that are being opened */
static int opened;
static uint64_t echoed, heavyEchoed, inflated, packedBytes;
static uint64_t handshakes, newcomers;
static int unanswered;       /* newcomers that were not waited for any longer */
static uint64_t progress;    /* when anything last moved */
static uint8_t *buffer;
static char request[1024];
static int requestLength;
struct sockaddr_in server;
#ifndef NO_TLS
SSL_CTX *tlsContext;
static char tlsName[128];
#endif

static void connectTo(struct connection *c);
static void startClosing(struct connection *c);

/* Returns the bytes, 0 at the end, -1 if there are none now. */
static ssize_t take(struct connection *c, uint8_t *to, size_t space)
{
#ifndef NO_TLS
    if (c->tls) {
        int n = SSL_read(c->tls, to, space);
        if (n > 0)
            return n;
        switch (SSL_get_error(c->tls, n)) {
        case SSL_ERROR_WANT_READ: return -1;
        case SSL_ERROR_ZERO_RETURN: return 0;
        case SSL_ERROR_SYSCALL: return 0;
        default: end(FAILED, "TLS: %s", ERR_reason_error_string(ERR_get_error()));
        }
    }
#endif
    ssize_t n = recv(c->fd, to, space, 0);
    if (n < 0 && errno != EAGAIN)
        end(FAILED, "connection %d: %s", c->index, strerror(errno));
    return n;
}

/* Returns the bytes that were taken. */
static size_t give(struct connection *c, const uint8_t *from, size_t length)
{
#ifndef NO_TLS
    if (c->tls) {
        int n = SSL_write(c->tls, from, length);
        if (n > 0)
            return n;
        if (SSL_get_error(c->tls, n) != SSL_ERROR_WANT_WRITE)
            end(FAILED, "TLS: %s", ERR_reason_error_string(ERR_get_error()));
        return 0;
    }
#endif
    ssize_t n = send(c->fd, from, length, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN)
            end(FAILED, "connection %d: %s", c->index, strerror(errno));
        return 0;
    }
    return n;
}

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(c->plan->isHeavy ? heavyEpoll : lightEpoll, operation, c->fd, &event))
        end(USAGE, "epoll: %s", strerror(errno));
}

/* Send what is due, as far as the socket takes it. */
static void pump(struct connection *c)
{
    while (c->unsent) {
        size_t piece = c->unsent < WRITE ? c->unsent : WRITE;
        size_t sent = give(c, c->plan->frames + c->sendAt, piece);
        c->unsent -= sent;
        c->sendAt += sent;
        if (c->sendAt >= c->plan->starts[c->plan->messages])
            c->sendAt -= c->plan->starts[c->plan->messages];
        /* A large message goes piece by piece, and others in between. */
        if (sent < piece || c->plan->isHeavy)
            break;
    }
    if (c->isWaiting != (c->unsent > 0)) {
        c->isWaiting = c->unsent > 0;
        watch(c, EPOLL_CTL_MOD, EPOLLIN | (c->isWaiting ? EPOLLOUT : 0));
    }
}

static void ask(struct connection *c, int messages, uint64_t at)
{
    const struct plan *plan = c->plan;
    c->unsent += plan->starts[c->next + messages] - plan->starts[c->next];
    c->next = (c->next + messages) % plan->messages;
    c->underway += messages;
    c->batches[c->lastBatch] = (struct batch){at, messages};
    c->lastBatch = (c->lastBatch + 1) % (plan->inflight + 1);
    pump(c);
}

/* So many echoes have come, whole and right. */
static void answered(struct connection *c, int messages, uint64_t at)
{
    c->underway -= messages;
    progress = at;
    if (c->plan->isHeavy)
        heavyEchoed += messages;
    else
        echoed += messages;
    for (int left = messages; left;) {
        struct batch *batch = c->batches + c->firstBatch;
        int n = left < batch->messages ? left : batch->messages;
        if (measuring && !c->plan->isHeavy)
            record(at - batch->at, n);
        batch->messages -= n;
        left -= n;
        if (batch->messages == 0)
            c->firstBatch = (c->firstBatch + 1) % (c->plan->inflight + 1);
    }
    if (asked.mode == NEWCOMERS)
        startClosing(c);
    else if (goOn)
        ask(c, messages, at);
}

static void wrong(struct connection *c, const uint8_t *came, const uint8_t *due, size_t length,
                  size_t at)
{
    size_t i = 0;
    while (i < length && came[i] == due[i])
        i++;
    size_t byte = (at + i) % c->plan->echo;
    if (byte == 0 && (came[i] & 8) && !asked.pings)
        end(WRONG, "connection %d: a control frame (%02x) came between two echoes", c->index,
            came[i]);
    end(WRONG, "wrong echo: connection %d, message %zu of the cycle, byte %zu of its frame: "
        "%02x came instead of %02x", c->index, (at + i) / c->plan->echo, byte, came[i], due[i]);
}

static void check(struct connection *c, const uint8_t *data, size_t length)
{
    const struct plan *plan = c->plan;
    size_t due = plan->echo * c->underway - c->echoPart, surplus = 0;
    if (length > due) {
        surplus = length - due;
        length = due;
    }
    c->echoPart += length;
    while (length) {
        size_t piece = plan->echoCycle - c->echoAt;
        if (piece > length)
            piece = length;
        if (memcmp(data, plan->echoes + c->echoAt, piece))
            wrong(c, data, plan->echoes + c->echoAt, piece, c->echoAt);
        data += piece;
        length -= piece;
        c->echoAt += piece;
        if (c->echoAt == plan->echoCycle)
            c->echoAt = 0;
    }
    if (surplus)
        end(WRONG, "connection %d: %zu bytes (%02x ...) came that nobody asked for", c->index,
            surplus, *data);
    if (c->echoPart >= plan->echo) {
        int whole = c->echoPart / plan->echo;
        c->echoPart -= whole * plan->echo;
        answered(c, whole, now());
    }
}

static void checkInflated(struct connection *c, size_t message, const uint8_t *data, size_t length)
{
    static uint8_t *plain;
    const struct plan *plan = c->plan;
    if (plain == NULL)
        plain = room(1, plan->size + 1);
    z_stream z = {.next_in = (uint8_t *)data, .avail_in = length, .next_out = plain,
                  .avail_out = plan->size + 1};
    if (inflateInit2(&z, -15) != Z_OK)
        end(USAGE, "out of memory");
    int status = inflate(&z, Z_SYNC_FLUSH);
    if (status == Z_OK || status == Z_BUF_ERROR) {
        z.next_in = (uint8_t *)"\x00\x00\xff\xff";
        z.avail_in = 4;
        status = inflate(&z, Z_SYNC_FLUSH);
    }
    size_t size = plan->size + 1 - z.avail_out;
    inflateEnd(&z);
    if (status < 0 && status != Z_BUF_ERROR)
        end(WRONG, "connection %d: what came back does not inflate", c->index);
    if (size != plan->size || memcmp(plain, plan->payloads + message * plan->size, size))
        end(WRONG, "wrong echo: connection %d, message %zu of the cycle, once inflated", c->index,
            message);
    free(plan->known[message]);
    plan->known[message] = room(1, length + 1);
    memcpy(plan->known[message], data, length);
    plan->knownLength[message] = length;
    inflated++;
}

static void checkMessage(struct connection *c, uint8_t first, const uint8_t *payload, size_t size)
{
    const struct plan *plan = c->plan;
    size_t message = c->echoAt;
    if ((first & 15) != (asked.kind == BINARY ? 2 : 1))
        end(WRONG, "connection %d: the echo has another type (%02x)", c->index, first);
    if (first & 0x40) {
        if (plan->knownLength[message] != size || plan->known[message] == NULL ||
            memcmp(plan->known[message], payload, size))
            checkInflated(c, message, payload, size);
    } else if (size != plan->size || memcmp(payload, plan->payloads + message * size, size)) {
        end(WRONG, "wrong echo: connection %d, message %zu of the cycle", c->index, message);
    }
    packedBytes += size;
    c->echoAt = (c->echoAt + 1) % plan->messages;
}

/* The next frame of a fragmented echo. Returns whether it was the last one. */
static int join(struct connection *c, uint8_t first, const uint8_t *payload, size_t size,
                size_t most)
{
    if (c->joined == NULL)
        c->joined = room(1, most);
    if (c->joinedLength + size > most)
        end(WRONG, "connection %d: the fragments of an echo are too long", c->index);
    memcpy(c->joined + c->joinedLength, payload, size);
    c->joinedLength += size;
    if (c->joinedFirst == 0)
        c->joinedFirst = first;
    return first & 0x80;
}

/* Frames of lengths and numbers that only the server knows. */
static void checkFrames(struct connection *c, const uint8_t *data, size_t length)
{
    const struct plan *plan = c->plan;
    size_t most = plan->size + plan->size / 8 + 64;
    int messages = 0;
    if (c->inLength + length > c->inSpace) {
        c->inSpace = c->inLength + length;
        c->in = realloc(c->in, c->inSpace);
        if (c->in == NULL)
            end(USAGE, "out of memory");
    }
    memcpy(c->in + c->inLength, data, length);
    c->inLength += length;
    size_t at = 0;
    while (c->inLength - at >= 2) {
        const uint8_t *frame = c->in + at;
        uint8_t first = frame[0];
        size_t size = frame[1], head = 2;
        if (size >= 126) {
            head = size == 126 ? 4 : 10;
            if (c->inLength - at < head)
                break;
            size = 0;
            for (size_t i = 2; i < head; i++)
                size = size << 8 | frame[i];
        }
        int isNext = (first & 15) == 0;
        if (first & (plan->known && !isNext ? 0x38 : 0x78) || isNext != (c->joinedFirst != 0))
            end(WRONG, "connection %d: a frame that cannot be (%02x)", c->index, first);
        if (frame[1] & 0x80 || size > most)
            end(WRONG, "connection %d: the header of an echo is wrong", c->index);
        if (c->inLength - at < head + size)
            break;
        if (messages == c->underway)
            end(WRONG, "connection %d: an echo came that nobody asked for", c->index);
        at += head + size;
        if (first & 0x80 && !isNext) {
            checkMessage(c, first, frame + head, size);
            messages++;
        } else if (join(c, first, frame + head, size, most)) {
            checkMessage(c, c->joinedFirst, c->joined, c->joinedLength);
            c->joinedLength = c->joinedFirst = 0;
            messages++;
        }
    }
    memmove(c->in, c->in + at, c->inLength -= at);
    if (messages)
        answered(c, messages, now());
}

/* An answer to the handshake, or a close frame. */
static void readyForText(struct connection *c)
{
    if (c->inSpace >= TEXT)
        return;
    free(c->in);
    c->inSpace = TEXT;
    c->in = room(1, c->inSpace);
}

static void startClosing(struct connection *c)
{
    static const uint8_t goodbye[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}; /* 1000 */
    if (give(c, goodbye, sizeof goodbye) != sizeof goodbye)
        end(FAILED, "connection %d: the socket did not take a close frame", c->index);
    c->state = CLOSING;
    c->inLength = 0;
    readyForText(c);
}

static void upgraded(struct connection *c)
{
    uint64_t at = now();
    progress = at;
    if (asked.mode == HANDSHAKES) {
        handshakes++;
        if (measuring)
            record(at - c->begun, 1);
        startClosing(c);
        return;
    }
    c->state = OPEN;
    c->inLength = 0;
    if (c->plan->echoes) {
        free(c->in);
        c->in = NULL;
        c->inSpace = 0;
    }
    opened++;
    unfinished--;
    if (c->batches == NULL)
        c->batches = room(c->plan->inflight + 1, sizeof *c->batches);
    /* Each at another message, so that an echo on the wrong connection is a wrong one. */
    c->next = c->index * 7 % c->plan->messages;
    c->sendAt = c->plan->starts[c->next];
    c->echoAt = c->plan->echoes ? c->next * c->plan->echo : (size_t)c->next;
    if (asked.mode == IDLE || asked.mode == NEWCOMERS)
        ask(c, 1, at);
}

static void checkUpgrade(struct connection *c)
{
    char *answer = (char *)c->in;
    answer[c->inLength] = 0;
    char *last = strstr(answer, "\r\n\r\n");
    if (last == NULL)
        return;
    if (strncmp(answer, "HTTP/1.1 101", 12) != 0)
        end(FAILED, "the upgrade was answered with: %.*s", (int)strcspn(answer, "\r\n"), answer);
    if (last + 4 != answer + c->inLength)
        end(WRONG, "connection %d: something came behind the handshake", c->index);
    /* The key is always that of RFC 6455, 1.3, and so is the answer to it. */
    const char *accept = strcasestr(answer, "\r\nSec-WebSocket-Accept:");
    if (accept == NULL || strncmp(accept + 23 + strspn(accept + 23, " "),
                                  "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 28) != 0)
        end(WRONG, "the Sec-WebSocket-Accept of the server is wrong");
    int isDeflated = strcasestr(answer, "permessage-deflate") != NULL;
    if (isDeflated != asked.deflate)
        end(FAILED, asked.deflate ? "the server did not accept permessage-deflate"
                                  : "the server took permessage-deflate without an offer");
    if (asked.deflate && strcasestr(answer, "server_no_context_takeover") == NULL)
        end(FAILED, "the server keeps its context, which it was asked not to do");
    upgraded(c);
}

static void sendRequest(struct connection *c)
{
    c->state = UPGRADING;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    if (give(c, (uint8_t *)request, requestLength) != (size_t)requestLength)
        end(FAILED, "connection %d: the socket did not take a request", c->index);
}

static void secure(struct connection *c)
{
#ifndef NO_TLS
    int done = SSL_connect(c->tls);
    if (done == 1) {
        if (!tlsName[0])
            snprintf(tlsName, sizeof tlsName, "%s, %s", SSL_get_version(c->tls),
                     SSL_get_cipher_name(c->tls));
        sendRequest(c);
        return;
    }
    switch (SSL_get_error(c->tls, done)) {
    case SSL_ERROR_WANT_READ: watch(c, EPOLL_CTL_MOD, EPOLLIN); break;
    case SSL_ERROR_WANT_WRITE: watch(c, EPOLL_CTL_MOD, EPOLLOUT); break;
    default: end(FAILED, "TLS: %s", ERR_reason_error_string(ERR_get_error()));
    }
#else
    (void)c;
#endif
}

static void connected(struct connection *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        end(FAILED, "connection %d: %s", c->index, strerror(error));
#ifndef NO_TLS
    if (asked.tls) {
        c->tls = SSL_new(tlsContext);
        SSL_set_fd(c->tls, c->fd);
        c->state = SECURING;
        secure(c);
        return;
    }
#endif
    sendRequest(c);
}

static void readHandshake(struct connection *c)
{
    readyForText(c);
    ssize_t n = take(c, c->in + c->inLength, c->inSpace - 1 - c->inLength);
    if (n == 0)
        end(FAILED, "connection %d: closed during the handshake", c->index);
    if (n > 0) {
        c->inLength += n;
        checkUpgrade(c);
    }
}

static void readClose(struct connection *c)
{
    ssize_t n;
    while ((n = take(c, c->in + c->inLength, c->inSpace - 1 - c->inLength)) > 0)
        c->inLength += n;
    if (n < 0)
        return;
    if (c->inLength < 2 || c->in[0] != 0x88)
        end(WRONG, "connection %d: a close was not answered with a close", c->index);
#ifndef NO_TLS
    if (c->tls) {
        SSL_free(c->tls);
        c->tls = NULL;
    }
#endif
    close(c->fd);
    c->inLength = 0;
    c->state = UNUSED;
    progress = now();
    if (asked.mode == NEWCOMERS) {
        newcomers++;
        if (measuring)
            record(progress - c->begun, 1);
    }
    if (goOn)
        connectTo(c);
}

static void readEchoes(struct connection *c)
{
    do {
        ssize_t n = take(c, buffer, READ);
        if (n == 0)
            end(FAILED, "connection %d: closed by the server", c->index);
        if (n < 0)
            return;
        if (c->plan->echoes)
            check(c, buffer, n);
        else
            checkFrames(c, buffer, n);
        /* epoll does not see what OpenSSL has read already. */
    } while (asked.tls && c->state == OPEN);
    if (asked.tls && c->state == CLOSING)
        readClose(c);
}

static void happened(struct connection *c, uint32_t events)
{
    switch (c->state) {
    case CONNECTING: connected(c); break;
    case SECURING: secure(c); break;
    case UPGRADING: readHandshake(c); break;
    case OPEN:
        if (events & ~EPOLLOUT)
            readEchoes(c);
        if (events & EPOLLOUT)
            pump(c);
        break;
    case CLOSING: readClose(c); break;
    case UNUSED: break;
    }
}

static void connectTo(struct connection *c)
{
    /* One address has 28,000 ports, and a closed connection keeps its port for a minute. */
    static uint32_t count;
    int one = 1;
    struct sockaddr_in mine = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(0x7f000101 + count++ % 32)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        end(USAGE, "socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (struct sockaddr *)&mine, sizeof mine))
        end(USAGE, "bind: %s", strerror(errno));
    c->begun = now();
    c->state = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        end(FAILED, "connect: %s", strerror(errno));
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

/* ---- The server, seen from outside. */

/* The processor time of all its threads, those that ended too, in seconds: what utime and stime
 * of /proc/PID/stat add up to, but in nanoseconds and not in ticks of 10 ms. */
static double serverCpu(void)
{
    clockid_t clock;
    struct timespec t;
    if (asked.pid == 0)
        return 0;
    if (clock_getcpuclockid(asked.pid, &clock) || clock_gettime(clock, &t))
        end(FAILED, "process %d is not there", asked.pid);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Resident bytes. */
static long serverMemory(void)
{
    char path[64];
    long size, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", asked.pid);
    FILE *file = fopen(path, "r");
    if (file == NULL || fscanf(file, "%ld %ld", &size, &resident) != 2)
        end(FAILED, "process %d is not there", asked.pid);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

static double ownCpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* ---- Runs. */

static struct connection *connections;
static int connectionCount;

/* Wait for whatever comes next, and treat it. */
static void turn(void)
{
    static struct epoll_event events[256];
    struct epoll_event heavy;
    int heavyIsReady = 0, ready = epoll_wait(lightEpoll, events, 256, 100);
    for (int i = 0; i < ready; i++) {
        if (events[i].data.ptr == NULL)
            heavyIsReady = 1;
        else
            happened(events[i].data.ptr, events[i].events);
    }
    /* One piece of a large message, then the small ones again: their latency is to be the
     * server's, not ours. */
    if (heavyIsReady && epoll_wait(heavyEpoll, &heavy, 1, 0) == 1)
        happened(heavy.data.ptr, heavy.events);
    /* A newcomer's wait is the figure itself. */
    if (asked.mode != NEWCOMERS && now() > progress + STUCK * SECOND)
        end(FAILED, "nothing has come back for %d seconds", STUCK);
}

/* Open connections until there are so many. */
static void openUpTo(int count)
{
    int begun = opened;
    while (opened < count) {
        while (unfinished < OPENING && begun < count) {
            unfinished++;
            connectTo(connections + begun++);
        }
        turn();
    }
}

static void turnUntil(uint64_t at)
{
    while (now() < at)
        turn();
}

/* Silence, but somebody must see that the server does not hang up. */
static void rest(double seconds)
{
    uint64_t until = now() + seconds * SECOND;
    while (now() < until) {
        progress = now();
        turn();
    }
}

struct measurement {
    uint64_t begun, echoed, heavyEchoed, handshakes, newcomers, packedBytes;
    struct attack attack;
    double serverCpu, ownCpu;
};

static struct measurement measurement(void)
{
    return (struct measurement){now(), echoed, heavyEchoed, handshakes, newcomers, packedBytes,
                                attackSoFar(), serverCpu(), ownCpu()};
}

static void tell(const char *what, const struct measurement *from, const struct measurement *to,
                 uint64_t events)
{
    double seconds = (to->begun - from->begun) / 1e9;
    uint64_t all = events + (to->heavyEchoed - from->heavyEchoed);
    if (events == 0)
        end(FAILED, "nothing came back while it was measured");
    /* A newcomer may wait for seconds. */
    const char *unit = asked.mode == NEWCOMERS ? "ms" : "us";
    double scale = asked.mode == NEWCOMERS ? 1e3 : 1;
    printf("{\"%s_per_s\": %.1f, \"p50_%s\": %.2f, \"p99_%s\": %.2f, \"p999_%s\": %.2f, ", what,
           events / seconds, unit, percentile(.5) / scale, unit, percentile(.99) / scale, unit,
           percentile(.999) / scale);
    if (asked.pid) {
        double cpu = to->serverCpu - from->serverCpu;
        /* Two sizes have no common cost, nor have newcomers and those who attack meanwhile. */
        if (all == events && asked.mode != NEWCOMERS)
            printf("\"server_us\": %.4f, ", cpu * 1e6 / events);
        printf("\"server_utilisation\": %.3f, ", cpu / seconds);
    }
    if (asked.mode == ECHO)
        printf("\"mb_per_s\": %.2f, ", events * asked.size / seconds / 1e6);
    if (asked.heavy)
        printf("\"heavy_mb_per_s\": %.2f, ",
               (to->heavyEchoed - from->heavyEchoed) * asked.heavySize / seconds / 1e6);
    if (asked.deflate)
        printf("\"echo_size\": %.1f, \"inflated\": %llu, ",
               (to->packedBytes - from->packedBytes) / (double)events,
               (unsigned long long)inflated);
    if (asked.hostility)
        printf("\"hostile_mb_per_s\": %.2f, \"hostile_reconnects\": %llu, ",
               (to->attack.bytes - from->attack.bytes) / seconds / 1e6,
               (unsigned long long)(to->attack.reconnects - from->attack.reconnects));
    if (asked.mode == NEWCOMERS)
        printf("\"unanswered\": %d, ", unanswered);
#ifndef NO_TLS
    if (asked.tls)
        printf("\"tls\": \"%s\", ", tlsName);
#endif
    printf("\"count\": %llu, \"seconds\": %.3f, \"load_utilisation\": %.3f}\n",
           (unsigned long long)events, seconds, (to->ownCpu - from->ownCpu) / seconds);
}

/* With one message in flight, a lost one is seen by nothing but the silence after it. */
static void awaitRest(void)
{
    goOn = 0;
    for (int i = 0; i < connectionCount; i++)
        while (asked.mode == ECHO ? connections[i].underway
                                  : connections[i].state != UNUSED)
            turn();
}

static void warmUpAndMeasure(struct measurement *from, struct measurement *to)
{
    turnUntil(now() + asked.warmup * SECOND);
    measuring = 1;
    *from = measurement();
    turnUntil(from->begun + asked.seconds * SECOND);
    *to = measurement();
    measuring = 0;
    awaitRest();
}

static void runEcho(void)
{
    openUpTo(connectionCount);
    goOn = 1;
    for (int i = 0; i < connectionCount; i++)
        ask(connections + i, connections[i].plan->inflight, now());
    struct measurement from, to;
    warmUpAndMeasure(&from, &to);
    tell("messages", &from, &to, to.echoed - from.echoed);
}

static void runHandshakes(void)
{
    goOn = 1;
    for (int i = 0; i < connectionCount; i++)
        connectTo(connections + i);
    struct measurement from, to;
    warmUpAndMeasure(&from, &to);
    tell("handshakes", &from, &to, to.handshakes - from.handshakes);
}

static void runNewcomers(void)
{
    struct connection *c = connections;
    if (asked.hostility)
        startHostiles(asked.hostility, asked.hostiles, asked.tls, asked.path);
    goOn = 1;
    connectTo(c);
    turnUntil(now() + asked.warmup * SECOND);
    measuring = 1;
    struct measurement from = measurement(), to;
    turnUntil(from.begun + asked.seconds * SECOND);
    /* The one that is waiting is a wait, too, and it may be the longest. */
    goOn = 0;
    uint64_t last = now() + LONGEST * SECOND;
    while (c->state != UNUSED && now() < last)
        turn();
    to = measurement();
    if (c->state != UNUSED) {
        unanswered = 1;
        newcomers++;
        record(now() - c->begun, 1);
        to.newcomers++;
    }
    tell("newcomers", &from, &to, to.newcomers - from.newcomers);
}

static void runIdle(void)
{
    /* The first ones make a server load what it loads once. They are not counted. */
    int first = connectionCount / 10;
    if (asked.pid == 0)
        end(USAGE, "--mode idle takes a --pid");
    openUpTo(first);
    while (echoed < (uint64_t)first)
        turn();
    rest(asked.warmup);
    long before = serverMemory();
    openUpTo(connectionCount);
    while (echoed < (uint64_t)connectionCount)
        turn();
    rest(asked.warmup);
    double cpu = serverCpu();
    rest(asked.seconds);
    cpu = serverCpu() - cpu;
    long after = serverMemory();
    printf("{\"bytes_per_connection\": %.1f, \"before\": %ld, \"after\": %ld, \"connections\": %d, "
           "\"server_utilisation\": %.4f}\n",
           (after - before) / (double)(connectionCount - first), before, after,
           connectionCount - first, cpu / asked.seconds);
}

int upgradeRequest(char *to, size_t space, const char *path, int deflate)
{
    int length = snprintf(
        to, space,
        "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
        path, asked.host, asked.port,
        deflate ? "Sec-WebSocket-Extensions: permessage-deflate; "
                  "server_no_context_takeover; client_no_context_takeover\r\n" : "");
    if (length >= (int)space)
        end(USAGE, "--path is too long");
    return length;
}

int main(int count, char **arguments)
{
    parse(count, arguments);
    connectionCount = asked.connections + asked.heavy;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < (rlim_t)connectionCount + 20)
        end(USAGE, "the limit of open files (ulimit -n) is %lu", (unsigned long)files.rlim_cur);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(asked.port)};
    if (inet_pton(AF_INET, asked.host, &server.sin_addr) != 1)
        end(USAGE, "--host takes an IPv4 address");
    requestLength = upgradeRequest(request, sizeof request, asked.path, asked.deflate);
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL. */
#ifndef NO_TLS
    if (asked.tls) {
        tlsContext = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(tlsContext,
                         SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_options(tlsContext, SSL_OP_IGNORE_UNEXPECTED_EOF);
    }
#endif
    buffer = room(1, READ);
    lightEpoll = epoll_create1(0);
    heavyEpoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(lightEpoll, EPOLL_CTL_ADD, heavyEpoll, &event);
    struct plan *plan = newPlan(asked.size, asked.kind, asked.inflight);
    struct plan *heavy = plan;
    if (asked.heavy) {
        heavy = newPlan(asked.heavySize, asked.kind, 1);
        heavy->isHeavy = 1;
    }
    connections = room(connectionCount, sizeof *connections);
    for (int i = 0; i < connectionCount; i++) {
        connections[i].index = i;
        connections[i].plan = i < asked.connections ? plan : heavy;
    }
    progress = now();
    switch (asked.mode) {
    case ECHO: runEcho(); break;
    case HANDSHAKES: runHandshakes(); break;
    case IDLE: runIdle(); break;
    case NEWCOMERS: runNewcomers(); break;
    }
    return 0;
}
