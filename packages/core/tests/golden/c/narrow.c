#pragma STDC FP_CONTRACT OFF
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

static uint32_t petaflop_to_float32(float x) {
    union { float value; uint32_t bits; } both;
    both.value = x;
    return both.bits;
}

static float petaflop_from_float32(uint32_t x) {
    union { float value; uint32_t bits; } both;
    both.bits = x;
    return both.value;
}

static float petaflop_round(float x, int drop, float least, float magic, uint32_t greatest, uint32_t beyond) {
    const uint32_t bits = petaflop_to_float32(x), sign = bits & 0x80000000u, size = bits ^ sign;
    if (size > 0x7F800000u) return petaflop_from_float32(bits | 0x00400000u);
    uint32_t near = (size + (size >> drop & 1u) + (1u << (drop - 1)) - 1u) & ~((1u << drop) - 1u);
    const float positive = petaflop_from_float32(size);
    if (positive < least) near = petaflop_to_float32(positive + magic - magic);
    return petaflop_from_float32(sign | (near > greatest ? beyond : near));
}

static float petaflop_round_float16(float x) { return petaflop_round(x, 13, 0x1p-14f, 0x1p-1f, 0x477FE000u, 0x7F800000u); }

static float petaflop_odd(double x) {
    const float near = (float)x;
    if ((double)near == x || x != x) return near;
    const uint32_t away = x < 0.0 ? (double)near < x : (double)near > x;
    return petaflop_from_float32((petaflop_to_float32(near) - away) | 1u);
}

static double petaflop_sticky_int64(int64_t x) {
    if (x < 0x20000000000000 && x > -0x20000000000000) return (double)x;
    return (double)((x & ~(int64_t)2047) | ((x & 2047) != 0 ? 2048 : 0));
}

static float petaflop_from_float16(uint32_t x) {
    const uint32_t sign = (x & 0x8000u) << 16, size = x & 0x7FFFu;
    if (size >= 0x7C00u) return petaflop_from_float32(sign | 0x7F800000u | (size & 0x3FFu) << 13);
    return petaflop_from_float32(sign | petaflop_to_float32(petaflop_from_float32(size << 13) * 0x1p112f));
}

static uint16_t petaflop_to_bfloat16(float x) { return (uint16_t)(petaflop_to_float32(x) >> 16); }

static float petaflop_round_bfloat16(float x) { return petaflop_round(x, 16, 0.0f, 0.0f, 0x7F7F0000u, 0x7F800000u); }

void kernel_d09e5e7ab39964c3_0(void **buffers, const int64_t *variables, char *scratch, int64_t first, int64_t last)
{
    const uint16_t *h = buffers[0];
    const int64_t *n = buffers[1];
    uint16_t *o = buffers[2];
    for (int64_t task0 = first; task0 < last; task0++) {
        for (int64_t i0 = 0; i0 < 8; i0 += 2) {
            #pragma GCC ivdep
            for (int64_t iv = 0; iv < 2; iv++) {
                const int64_t v1 = i0 + iv;
                const float v2 = petaflop_round_float16(petaflop_odd(petaflop_sticky_int64(n[v1])));
                const double v3 = (double)petaflop_round_float16((petaflop_from_float16(h[v1]) + v2));
                o[v1] = petaflop_to_bfloat16(petaflop_round_bfloat16(petaflop_odd(v3)));
            }
        }
        const float v4 = petaflop_round_float16(petaflop_odd(petaflop_sticky_int64(n[8])));
        const double v5 = (double)petaflop_round_float16((petaflop_from_float16(h[8]) + v4));
        o[8] = petaflop_to_bfloat16(petaflop_round_bfloat16(petaflop_odd(v5)));
    }
}
