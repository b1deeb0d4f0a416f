#pragma STDC FP_CONTRACT OFF
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

static int8_t petaflop_divide_int8(int8_t a, int8_t b) {
    if (b == 0) return 0;
    if (b == -1) return (int8_t)((uint32_t)0 - (uint32_t)a);
    const int8_t quotient = a / b, rest = a % b;
    return quotient - (rest != 0 && (rest < 0) != (b < 0));
}

static int8_t petaflop_int8_of_float32(float x) {
    if (x != x) return 0;
    if (x >= 0x1p7f) return 127;
    return x <= -0x1p7f ? (-127 - 1) : (int8_t)x;
}

void kernel_0413aef1bc9fb854_0(void **buffers, const int64_t *variables, char *scratch, int64_t first, int64_t last)
{
    const int8_t *a = buffers[0];
    const int8_t *b = buffers[1];
    const float *x = buffers[2];
    int8_t *o = buffers[3];
    for (int64_t task0 = first; task0 < last; task0++) {
        for (int64_t i0 = 0; i0 < 8; i0 += 4) {
            #pragma GCC ivdep
            for (int64_t iv = 0; iv < 4; iv++) {
                const int64_t v1 = i0 + iv;
                const int8_t v2 = a[v1];
                const int8_t v3 = b[v1];
                o[v1] = (v2 < (-127 - 1)) ? petaflop_divide_int8((int8_t)((uint32_t)v2 * (uint32_t)v3), v3) : petaflop_int8_of_float32(x[v1]);
            }
        }
        const int8_t v4 = a[8];
        const int8_t v5 = b[8];
        o[8] = (v4 < (-127 - 1)) ? petaflop_divide_int8((int8_t)((uint32_t)v4 * (uint32_t)v5), v5) : petaflop_int8_of_float32(x[8]);
    }
}
