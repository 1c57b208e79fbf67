/* What is done to every byte: unmasking (RFC 6455, 5.3), and validating UTF-8 (RFC 3629).

This is C, and not part of _frame.pxd, because Cython has no vectors and a loop over single bytes
takes ten times as long. Nothing here allocates, or reads outside [from, from + length). All loops
count upwards, over sizes that fit one read of the socket, so that nothing overflows.
*/

#ifndef ECHOTWIST_OCTETS_H
#define ECHOTWIST_OCTETS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The widest that every processor has. With vectors of 32 bytes, for which x86-64 needs AVX, gcc 12
keeps `seen` on the stack: 12 GB/s instead of 50. */
typedef uint8_t block_of_16 __attribute__((vector_size(16)));

/* Unmask `length` bytes into `to`, which may be `from` itself or lie before it. `offset` is where
they begin in the payload, in bytes. Returns whether any of them is not ASCII. */
static int unmask(uint8_t *to, const uint8_t *from, size_t length, const uint8_t mask[4],
                  uint64_t offset)
{
    uint8_t turned[16];
    for (int i = 0; i < 16; i++)
        turned[i] = mask[(offset + i) & 3];

    /* memcpy() is how C reads what is not aligned; it costs nothing. */
    block_of_16 masks, first, second, seen = {0};
    memcpy(&masks, turned, 16);
    size_t at = 0;
    for (; length - at >= 32; at += 32) {
        memcpy(&first, from + at, 16);
        memcpy(&second, from + at + 16, 16);
        first ^= masks;
        second ^= masks;
        seen |= first | second;
        memcpy(to + at, &first, 16);
        memcpy(to + at + 16, &second, 16);
    }
    uint64_t words[2], word, masks8;
    memcpy(words, &seen, 16);
    uint64_t all = words[0] | words[1];
    memcpy(&masks8, turned, 8);
    for (; length - at >= 8; at += 8) {
        memcpy(&word, from + at, 8);
        word ^= masks8;
        all |= word;
        memcpy(to + at, &word, 8);
    }
    for (; at < length; at++) {
        uint8_t byte = from[at] ^ turned[at & 15];
        all |= byte;
        to[at] = byte;
    }
    return (all & 0x8080808080808080) != 0;
}

/* Where in a character a piece of text ended: `due` continuation bytes are still to come, and the
next one must lie in [low, high]. All zeros is between two characters. */
typedef struct {
    uint8_t due, low, high;
} utf8_state;

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* The errors that two adjacent bytes can show, a bit each. Each of three tables, indexed by half a
byte, says which errors are still possible; what all three say is an error. The method and the names
are Keiser and Lemire's (Validating UTF-8 In Less Than One Instruction Per Byte, 2021). */
enum {
    TOO_SHORT = 1,    /* a lead byte, then no continuation */
    TOO_LONG = 2,     /* ASCII, then a continuation */
    OVERLONG_2 = 4,   /* C0, C1: two bytes for a character that takes one */
    OVERLONG_3 = 8,   /* E0 80..9F: three for one that takes two */
    OVERLONG_4 = 16,  /* F0 80..8F: four for one that takes three; also F5..FF 80..8F */
    SURROGATE = 32,   /* ED A0..BF */
    TOO_LARGE = 64,   /* F4 90..BF, F5..FF 90..BF: beyond U+10FFFF */
    TWO_CONTS = 128,  /* two continuations: right if the second is the third or fourth byte */
    CARRY = TOO_SHORT | TOO_LONG | TWO_CONTS,
};

#define TWICE(...) {__VA_ARGS__, __VA_ARGS__}

static const uint8_t FIRST_HIGH[32] __attribute__((aligned(32))) = TWICE(
    TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG,                         /* 0_..3_ */
    TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG,                         /* 4_..7_ */
    TWO_CONTS, TWO_CONTS, TWO_CONTS, TWO_CONTS,                     /* 8_..B_ */
    TOO_SHORT | OVERLONG_2, TOO_SHORT,                              /* C_, D_ */
    TOO_SHORT | OVERLONG_3 | SURROGATE,                             /* E_ */
    TOO_SHORT | OVERLONG_4 | TOO_LARGE);                            /* F_ */

static const uint8_t FIRST_LOW[32] __attribute__((aligned(32))) = TWICE(
    CARRY | OVERLONG_2 | OVERLONG_3 | OVERLONG_4,                   /* _0 */
    CARRY | OVERLONG_2,                                             /* _1 */
    CARRY, CARRY,                                                   /* _2, _3 */
    CARRY | TOO_LARGE,                                              /* _4 */
    CARRY | OVERLONG_4 | TOO_LARGE, CARRY | OVERLONG_4 | TOO_LARGE, /* _5, _6 */
    CARRY | OVERLONG_4 | TOO_LARGE, CARRY | OVERLONG_4 | TOO_LARGE, /* _7, _8 */
    CARRY | OVERLONG_4 | TOO_LARGE, CARRY | OVERLONG_4 | TOO_LARGE, /* _9, _A */
    CARRY | OVERLONG_4 | TOO_LARGE, CARRY | OVERLONG_4 | TOO_LARGE, /* _B, _C */
    CARRY | OVERLONG_4 | TOO_LARGE | SURROGATE,                     /* _D */
    CARRY | OVERLONG_4 | TOO_LARGE, CARRY | OVERLONG_4 | TOO_LARGE);/* _E, _F */

static const uint8_t SECOND_HIGH[32] __attribute__((aligned(32))) = TWICE(
    TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,                     /* 0_..3_ */
    TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,                     /* 4_..7_ */
    TOO_LONG | TWO_CONTS | OVERLONG_2 | OVERLONG_3 | OVERLONG_4,    /* 8_ */
    TOO_LONG | TWO_CONTS | OVERLONG_2 | OVERLONG_3 | TOO_LARGE,     /* 9_ */
    TOO_LONG | TWO_CONTS | OVERLONG_2 | SURROGATE | TOO_LARGE,      /* A_ */
    TOO_LONG | TWO_CONTS | OVERLONG_2 | SURROGATE | TOO_LARGE,      /* B_ */
    TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT);                    /* C_..F_ */

/* How many bytes at the beginning of `text`, which is that of a character, are whole and valid
characters, as far as blocks of 32 tell; 0 also if something is wrong. */
__attribute__((target("avx2")))
static size_t valid_prefix(const uint8_t *text, size_t length)
{
    const __m256i firstHigh = _mm256_load_si256((const __m256i *)FIRST_HIGH);
    const __m256i firstLow = _mm256_load_si256((const __m256i *)FIRST_LOW);
    const __m256i secondHigh = _mm256_load_si256((const __m256i *)SECOND_HIGH);
    const __m256i half = _mm256_set1_epi8(15);
    __m256i before = _mm256_setzero_si256(), wrong = _mm256_setzero_si256();
    size_t at = 0;
    for (; length - at >= 32; at += 32) {
        __m256i now = _mm256_loadu_si256((const __m256i *)(text + at));
        /* The same bytes shifted by 1, 2 and 3, so that each lines up with those before it. */
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
        /* TWO_CONTS is due, and right only then, two after E_ and F_, and three after F_. */
        __m256i due = _mm256_or_si256(_mm256_subs_epu8(by2, _mm256_set1_epi8(0xE0 - 0x80)),
                                      _mm256_subs_epu8(by3, _mm256_set1_epi8(0xF0 - 0x80)));
        due = _mm256_and_si256(due, _mm256_set1_epi8((char)TWO_CONTS));
        wrong = _mm256_or_si256(wrong, _mm256_xor_si256(pairs, due));
        before = now;
    }
    if (!_mm256_testz_si256(wrong, wrong))
        return 0;
    /* A last character that goes on behind the last block does not count. */
    for (size_t back = 1; back <= 3 && back <= at; back++)
        if (text[at - back] >= 0xC0)
            return text[at - back] >= (back == 1 ? 0xC0 : back == 2 ? 0xE0 : 0xF0) ? at - back : at;
    return at;
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
/* Byte by byte, below. */
static size_t valid_prefix(const uint8_t *text, size_t length)
{
    (void)text, (void)length;
    return 0;
}

static int has_avx2(void)
{
    return 0;
}
#endif

/* Validate the next piece of a text, from `state` on. Returns whether the text can still be valid;
at its end it is valid if `state->due` is 0, too. */
static int validate_utf8(utf8_state *state, const uint8_t *text, size_t length)
{
    size_t at = 0;
    int vectors = has_avx2();
    while (at < length) {
        if (vectors && state->due == 0 && length - at >= 32) {
            /* Once: what the vectors leave, the loop over bytes decides. */
            vectors = 0;
            at += valid_prefix(text + at, length - at);
            continue;
        }
        uint8_t byte = text[at++];
        if (state->due) {
            if (byte < state->low || byte > state->high)
                return 0;
            state->due--;
            state->low = 0x80, state->high = 0xBF;
        } else if (byte >= 0x80) {
            /* RFC 3629, 4: the first byte restricts only the second. */
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
