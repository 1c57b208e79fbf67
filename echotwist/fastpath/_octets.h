/* What is done to every byte: unmasking (RFC 6455, 5.3), and whether text is UTF-8 (RFC 3629).

Apart from the loop in _loop.pyx, because Cython has no word for vectors: a loop over single
bytes takes ten times as long. Nothing here allocates, and nothing outside [from, from + length)
is read. All loops count upwards over sizes that fit a read of the socket, so nothing overflows.
*/

#ifndef ECHOTWIST_OCTETS_H
#define ECHOTWIST_OCTETS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t block_of_32 __attribute__((vector_size(32)));

/* Unmask `length` bytes into `to`, which may be `from` itself or lie before it. `turn` is the
number of bytes of the payload before these. Returns whether there is a byte that is not ASCII. */
static int unmask(uint8_t *to, const uint8_t *from, size_t length, const uint8_t mask[4],
                  uint64_t turn)
{
    uint8_t turned[32];
    for (int i = 0; i < 32; i++)
        turned[i] = mask[(turn + i) & 3];

    /* memcpy() is how C says: wherever it lies in memory. It costs nothing. */
    block_of_32 masks, block, seen = {0};
    memcpy(&masks, turned, 32);
    size_t at = 0;
    for (; length - at >= 32; at += 32) {
        memcpy(&block, from + at, 32);
        block ^= masks;
        seen |= block;
        memcpy(to + at, &block, 32);
    }
    uint64_t words[4], word, masks8;
    memcpy(words, &seen, 32);
    uint64_t all = words[0] | words[1] | words[2] | words[3];
    memcpy(&masks8, turned, 8);
    for (; length - at >= 8; at += 8) {
        memcpy(&word, from + at, 8);
        word ^= masks8;
        all |= word;
        memcpy(to + at, &word, 8);
    }
    for (; at < length; at++) {
        uint8_t byte = from[at] ^ turned[at & 31];
        all |= byte;
        to[at] = byte;
    }
    return (all & 0x8080808080808080) != 0;
}

/* Where in a character a piece of text ended: `due` continuation bytes are still to come, the
next of which lies in [low, high]. Zero is between two characters. */
typedef struct {
    uint8_t due, low, high;
} utf8;

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* Errors that a byte and the one before it can make, a bit each. Three tables say which are still
possible after a look at one half of a byte; what all three agree on is an error. The method is
Keiser and Lemire's (Validating UTF-8 In Less Than One Instruction Per Byte, 2021). */
enum {
    CUT = 1,          /* a lead byte, then no continuation */
    STRAY = 2,        /* ASCII, then a continuation */
    LONG_2 = 4,       /* C0, C1: a character that one byte could tell */
    LONG_3 = 8,       /* E0 80..9F: ... that two could */
    LONG_4 = 16,      /* F0 80..8F: ... that three could; also F5..FF 80..8F */
    SURROGATE = 32,   /* ED A0..BF */
    BEYOND = 64,      /* F4 90..BF, F5..FF 90..BF: beyond U+10FFFF */
    PAIR = 128,       /* two continuations: right only as third or fourth byte of a character */
    ANY_LOW = CUT | STRAY | PAIR,
};

#define TWICE(...) {__VA_ARGS__, __VA_ARGS__}

static const uint8_t FIRST_HIGH[32] __attribute__((aligned(32))) = TWICE(
    STRAY, STRAY, STRAY, STRAY, STRAY, STRAY, STRAY, STRAY, /* 0_..7_ */
    PAIR, PAIR, PAIR, PAIR,                                 /* 8_..B_ */
    CUT | LONG_2, CUT,                                      /* C_, D_ */
    CUT | LONG_3 | SURROGATE,                               /* E_ */
    CUT | LONG_4 | BEYOND);                                 /* F_ */

static const uint8_t FIRST_LOW[32] __attribute__((aligned(32))) = TWICE(
    ANY_LOW | LONG_2 | LONG_3 | LONG_4,                     /* _0 */
    ANY_LOW | LONG_2,                                       /* _1 */
    ANY_LOW, ANY_LOW,                                       /* _2, _3 */
    ANY_LOW | BEYOND,                                       /* _4 */
    ANY_LOW | LONG_4 | BEYOND, ANY_LOW | LONG_4 | BEYOND, ANY_LOW | LONG_4 | BEYOND,
    ANY_LOW | LONG_4 | BEYOND, ANY_LOW | LONG_4 | BEYOND, ANY_LOW | LONG_4 | BEYOND,
    ANY_LOW | LONG_4 | BEYOND, ANY_LOW | LONG_4 | BEYOND,   /* _5.._C */
    ANY_LOW | LONG_4 | BEYOND | SURROGATE,                  /* _D */
    ANY_LOW | LONG_4 | BEYOND, ANY_LOW | LONG_4 | BEYOND);  /* _E, _F */

static const uint8_t SECOND_HIGH[32] __attribute__((aligned(32))) = TWICE(
    CUT, CUT, CUT, CUT, CUT, CUT, CUT, CUT,                 /* 0_..7_ */
    STRAY | PAIR | LONG_2 | LONG_3 | LONG_4,                /* 8_ */
    STRAY | PAIR | LONG_2 | LONG_3 | BEYOND,                /* 9_ */
    STRAY | PAIR | LONG_2 | SURROGATE | BEYOND,             /* A_ */
    STRAY | PAIR | LONG_2 | SURROGATE | BEYOND,             /* B_ */
    CUT, CUT, CUT, CUT);                                    /* C_..F_ */

/* How many bytes from the beginning are whole, right characters, as far as blocks of 32 can tell;
0 also if something is wrong. The beginning is that of a character. */
__attribute__((target("avx2")))
static size_t whole_characters(const uint8_t *text, size_t length)
{
    const __m256i firstHigh = _mm256_load_si256((const __m256i *)FIRST_HIGH);
    const __m256i firstLow = _mm256_load_si256((const __m256i *)FIRST_LOW);
    const __m256i secondHigh = _mm256_load_si256((const __m256i *)SECOND_HIGH);
    const __m256i half = _mm256_set1_epi8(15);
    __m256i before = _mm256_setzero_si256(), wrong = _mm256_setzero_si256();
    size_t at = 0;
    for (; length - at >= 32; at += 32) {
        __m256i now = _mm256_loadu_si256((const __m256i *)(text + at));
        /* The same bytes, later by 1, 2 and 3: each lies beside the ones before it. */
        __m256i joint = _mm256_permute2x128_si256(before, now, 0x21);
        __m256i by1 = _mm256_alignr_epi8(now, joint, 15);
        __m256i by2 = _mm256_alignr_epi8(now, joint, 14);
        __m256i by3 = _mm256_alignr_epi8(now, joint, 13);
        __m256i pairs = _mm256_and_si256(
            _mm256_and_si256(
                _mm256_shuffle_epi8(firstHigh,
                                    _mm256_and_si256(_mm256_srli_epi16(by1, 4), half)),
                _mm256_shuffle_epi8(firstLow, _mm256_and_si256(by1, half))),
            _mm256_shuffle_epi8(secondHigh, _mm256_and_si256(_mm256_srli_epi16(now, 4), half)));
        /* PAIR is due, and only then right, two after E_ and F_, and three after F_. */
        __m256i due = _mm256_or_si256(_mm256_subs_epu8(by2, _mm256_set1_epi8(0xE0 - 0x80)),
                                      _mm256_subs_epu8(by3, _mm256_set1_epi8(0xF0 - 0x80)));
        due = _mm256_and_si256(due, _mm256_set1_epi8((char)PAIR));
        wrong = _mm256_or_si256(wrong, _mm256_xor_si256(pairs, due));
        before = now;
    }
    if (!_mm256_testz_si256(wrong, wrong))
        return 0;
    /* The last character may go on behind the last block; then it does not count. */
    for (size_t back = 1; back <= 3 && back <= at; back++)
        if (text[at - back] >= 0xC0)
            return text[at - back] >= (back == 1 ? 0xC0 : back == 2 ? 0xE0 : 0xF0) ? at - back : at;
    return at;
}

static int has_vectors(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
/* Byte by byte, below. */
static size_t whole_characters(const uint8_t *text, size_t length)
{
    (void)text, (void)length;
    return 0;
}

static int has_vectors(void)
{
    return 0;
}
#endif

/* Go on with text behind `state`. Returns whether it can still become UTF-8: at the end of a
message it is, if also `state->due` is 0. */
static int still_utf8(utf8 *state, const uint8_t *text, size_t length)
{
    size_t at = 0;
    int vectors = has_vectors();
    while (at < length) {
        if (vectors && state->due == 0 && length - at >= 32) {
            /* Once: what these cannot tell, the bytes below do. */
            vectors = 0;
            at += whole_characters(text + at, length - at);
            continue;
        }
        uint8_t byte = text[at++];
        if (state->due) {
            if (byte < state->low || byte > state->high)
                return 0;
            state->due--;
            state->low = 0x80, state->high = 0xBF;
        } else if (byte >= 0x80) {
            /* RFC 3629, 4: only the second byte is bound by the first. */
            if (byte < 0xC2 || byte > 0xF4)
                return 0;
            state->due = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
            state->low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
            state->high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
        }
    }
    return 1;
}

#endif
