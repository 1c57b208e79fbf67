/* zlib, or what stands for it where this was compiled without: setup.py defines HAS_ZLIB if it has
the header and the library.

Cython cannot leave code out by a macro. So without zlib the few names that _deflate.pxd uses are
declared here: every stream fails to be made, and `_deflate.pxd` leaves the message to Autobahn. */

#ifdef HAS_ZLIB

#define ZLIB_CONST  /* `next_in` points to const. */
#include <zlib.h>

#else

#include <stddef.h>
#include <stdint.h>

#define HAS_ZLIB 0

enum {
    Z_OK = 0, Z_STREAM_END = 1, Z_STREAM_ERROR = -2, Z_BUF_ERROR = -5,
    Z_SYNC_FLUSH = 2, Z_DEFLATED = 8, Z_DEFAULT_STRATEGY = 0
};

typedef struct {
    const uint8_t *next_in;
    uint8_t *next_out;
    unsigned int avail_in, avail_out;
    void *(*zalloc)(void *, unsigned int, unsigned int);
    void (*zfree)(void *, void *);
} z_stream;

#define inflateInit2(stream, bits) Z_STREAM_ERROR
#define deflateInit2(stream, level, method, bits, memory, strategy) Z_STREAM_ERROR
#define inflateReset(stream) Z_STREAM_ERROR
#define deflateReset(stream) Z_STREAM_ERROR
#define inflate(stream, flush) Z_STREAM_ERROR
#define deflate(stream, flush) Z_STREAM_ERROR
#define inflateEnd(stream) Z_STREAM_ERROR
#define deflateEnd(stream) Z_STREAM_ERROR

#endif
