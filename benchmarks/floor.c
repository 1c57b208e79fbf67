/* The floor: the least that a WebSocket echo costs on one thread of Linux.
 *
 *     gcc -O2 -march=native -o floor floor.c && ./floor PORT
 *
 * It shakes hands, unmasks, and sends back, and that is all: no limit, no timeout, no check of
 * UTF-8, of reserved bits or of fragments, no message held whole (its first bytes go back while
 * the last ones are still on their way). Nothing that a service must do is in it, so what a
 * service costs above it is what those duties cost, or waste.
 *
 * One read buffer serves all connections: a frame is unmasked where it was read, moved down by
 * the four bytes of its mask, and sent from there, with all others of the same read in one call.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Larger ones gain nothing at 64 KiB messages and fall out of the cache at 4 MiB ones. */
#define READ (256 << 10)

struct connection {
    int fd;
    int open;          /* the handshake is done */
    int ending;        /* a close frame was seen: nothing after it is echoed */
    uint64_t left;     /* of the payload of the frame that is being echoed */
    unsigned turned;   /* bytes of that payload so far, modulo 4 */
    uint8_t mask[4];
    uint8_t head[14];  /* a header that was cut in two by a read */
    unsigned headLength;
    char *request;     /* the part of a handshake that has come */
    size_t requestLength;
    uint8_t *unsent;   /* what the socket did not take; while there is any, nothing is read */
    size_t unsentLength, unsentAt;
};

static int epoll;
static uint8_t room[14 + READ]; /* 14 bytes before what is read, for a header cut in two */
static uint8_t *const buffer = room + 14;

static void drop(struct connection *c)
{
    close(c->fd);
    free(c->request);
    free(c->unsent);
    free(c);
}

static void watch(struct connection *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* Returns 0 if the connection is gone. */
static int give(struct connection *c, const uint8_t *data, size_t length)
{
    ssize_t sent = send(c->fd, data, length, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) {
            drop(c);
            return 0;
        }
        sent = 0;
    }
    if ((size_t)sent < length) {
        c->unsentLength = length - sent;
        c->unsentAt = 0;
        c->unsent = malloc(c->unsentLength);
        memcpy(c->unsent, data + sent, c->unsentLength);
        watch(c, EPOLLOUT);
    } else if (c->ending) {
        shutdown(c->fd, SHUT_WR);
    }
    return 1;
}

static void giveRest(struct connection *c)
{
    ssize_t sent = send(c->fd, c->unsent + c->unsentAt, c->unsentLength - c->unsentAt, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            drop(c);
        return;
    }
    c->unsentAt += sent;
    if (c->unsentAt == c->unsentLength) {
        free(c->unsent);
        c->unsent = NULL;
        if (c->ending)
            shutdown(c->fd, SHUT_WR);
        watch(c, EPOLLIN);
    }
}

/* `to` may lie before `from` and overlap it, so the bytes go upwards. */
static void unmask(uint8_t *to, const uint8_t *from, size_t length, const uint8_t mask[4],
                   unsigned turned)
{
    typedef uint8_t block __attribute__((vector_size(32)));
    uint8_t turnedMask[4];
    block masks;
    size_t i = 0;
    for (int k = 0; k < 4; k++)
        turnedMask[k] = mask[(turned + k) & 3];
    for (int k = 0; k < 32; k++)
        masks[k] = turnedMask[k & 3];
    for (; i + 32 <= length; i += 32) {
        block b;
        memcpy(&b, from + i, 32);
        b ^= masks;
        memcpy(to + i, &b, 32);
    }
    for (; i < length; i++)
        to[i] = from[i] ^ turnedMask[i & 3];
}

static void echo(struct connection *c, size_t length)
{
    uint8_t *at = buffer - c->headLength, *end = buffer + length, *to = room;
    memcpy(at, c->head, c->headLength);
    c->headLength = 0;
    while (at < end) {
        if (c->left == 0) {
            if (c->ending)
                break;
            size_t have = end - at, need = 6;
            if (have >= 2)
                need = 6 + ((at[1] & 127) == 126 ? 2 : (at[1] & 127) == 127 ? 8 : 0);
            if (have < need) {
                memcpy(c->head, at, have);
                c->headLength = have;
                break;
            }
            uint64_t size = at[1] & 127;
            if (need > 6) {
                size = 0;
                for (size_t i = 2; i < need - 4; i++)
                    size = size << 8 | at[i];
            }
            memcpy(c->mask, at + need - 4, 4);
            c->turned = 0;
            c->left = size;
            c->ending = (at[0] & 15) == 8;
            uint8_t first = (at[0] & 15) == 9 ? at[0] + 1 : at[0]; /* a ping wants a pong */
            at[1] &= 127;
            memmove(to + 1, at + 1, need - 5);
            to[0] = first;
            to += need - 4;
            at += need;
        }
        size_t part = (size_t)(end - at) < c->left ? (size_t)(end - at) : c->left;
        unmask(to, at, part, c->mask, c->turned);
        c->turned = (c->turned + part) & 3;
        c->left -= part;
        to += part;
        at += part;
    }
    if (to > room)
        give(c, room, to - room);
}

static void sha1(const uint8_t *text, size_t length, uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0}; /* a key and the GUID are 60 bytes: two blocks */
    memcpy(padded, text, length);
    padded[length] = 0x80;
    padded[126] = (uint8_t)(length * 8 >> 8);
    padded[127] = (uint8_t)(length * 8);
    for (int block = 0; block < 2; block++) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++) {
            const uint8_t *p = padded + block * 64 + i * 4;
            w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) {
            uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = x << 1 | x >> 31;
        }
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20)
                f = (b & c) | (~b & d), k = 0x5a827999;
            else if (i < 40)
                f = b ^ c ^ d, k = 0x6ed9eba1;
            else if (i < 60)
                f = (b & c) | (b & d) | (c & d), k = 0x8f1bbcdc;
            else
                f = b ^ c ^ d, k = 0xca62c1d6;
            uint32_t t = (a << 5 | a >> 27) + f + e + k + w[i];
            e = d, d = c, c = b << 30 | b >> 2, b = a, a = t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = h[i / 4] >> (24 - i % 4 * 8);
}

static void shakeHands(struct connection *c, size_t length)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    c->request = realloc(c->request, c->requestLength + length + 1);
    memcpy(c->request + c->requestLength, buffer, length);
    c->requestLength += length;
    c->request[c->requestLength] = 0;
    if (strstr(c->request, "\r\n\r\n") == NULL) {
        if (c->requestLength > 16384)
            drop(c);
        return;
    }
    const char *key = strcasestr(c->request, "\r\nSec-WebSocket-Key:");
    if (key == NULL) {
        drop(c);
        return;
    }
    key += 20;
    key += strspn(key, " \t");
    if (strcspn(key, " \t\r\n") != 24) {
        drop(c);
        return;
    }
    uint8_t joined[60], digest[21] = {0};
    memcpy(joined, key, 24);
    memcpy(joined + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(joined, 60, digest);
    char accept[29] = {0};
    for (int i = 0; i < 7; i++) {
        uint32_t three = digest[i * 3] << 16 | digest[i * 3 + 1] << 8 | digest[i * 3 + 2];
        for (int k = 0; k < 4; k++)
            accept[i * 4 + k] = letters[three >> (18 - k * 6) & 63];
    }
    accept[27] = '=';
    char answer[160];
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    free(c->request);
    c->request = NULL;
    c->open = 1;
    give(c, (uint8_t *)answer, size);
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: floor PORT\n");
        return 1;
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("floor");
        return 1;
    }
    epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                }
            } else if (c->unsent != NULL) {
                giveRest(c);
            } else {
                ssize_t length = recv(c->fd, buffer, READ, 0);
                if (length <= 0) {
                    if (length == 0 || errno != EAGAIN)
                        drop(c);
                } else if (c->open) {
                    echo(c, length);
                } else {
                    shakeHands(c, length);
                }
            }
        }
    }
}
