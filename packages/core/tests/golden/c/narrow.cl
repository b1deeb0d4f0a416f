#pragma OPENCL FP_CONTRACT OFF
typedef char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;

#define petaflop_to_float32(x) as_uint(x)

#define petaflop_from_float32(x) as_float(x)

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

static uint16_t petaflop_to_bfloat16(float x) { return (uint16_t)(petaflop_to_float32(x) >> 16); }

static float petaflop_round_bfloat16(float x) { return petaflop_round(x, 16, 0.0f, 0.0f, 0x7F7F0000u, 0x7F800000u); }

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void kernel_d09e5e7ab39964c3_0(__global char *scratch, __global char *shared, __global const half *h, __global const long *n, __global ushort *o)
{
    for (int task0 = get_group_id(0); task0 < 1; task0 += get_num_groups(0)) {
        for (int i0 = 0; i0 < 8; i0 += 2) {
            for (int iv = 0; iv < 2; iv++) {
                const int v1 = i0 + iv;
                const float v2 = petaflop_round_float16(petaflop_odd(petaflop_sticky_int64(n[v1])));
                o[v1] = petaflop_to_bfloat16(petaflop_round_bfloat16(petaflop_odd((double)petaflop_round_float16((vload_half(v1, h) + v2)))));
            }
        }
        const float v3 = petaflop_round_float16(petaflop_odd(petaflop_sticky_int64(n[8])));
        o[8] = petaflop_to_bfloat16(petaflop_round_bfloat16(petaflop_odd((double)petaflop_round_float16((vload_half(8, h) + v3)))));
    }
}
