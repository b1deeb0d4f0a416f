#pragma STDC FP_CONTRACT OFF
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

float exp2f(float x);

static float petaflop_max_float32(float a, float b) { return a != a ? a : a > b ? a : b; }

void kernel_0076de1660b4a2de_0(void **buffers, const int64_t *variables, char *scratch, int64_t first, int64_t last)
{
    const float *x = buffers[0];
    float *o = buffers[1];
    for (int64_t task0 = first; task0 < last; task0++) {
        for (int64_t i0 = 0; i0 < 68; i0 += 4) {
            #pragma GCC ivdep
            for (int64_t iv = 0; iv < 4; iv++) {
                const int64_t v1 = i0 + iv;
                const float v2 = x[v1];
                const float v3 = v2 * v2;
                o[v1] = exp2f(v3) + petaflop_max_float32(v3, ((2 < v1) ? x[v1 - 3] : 0.0f));
            }
        }
        for (int64_t i0r1 = 68; i0r1 < 70; i0r1++) {
            const float v4 = x[i0r1];
            const float v5 = v4 * v4;
            o[i0r1] = exp2f(v5) + petaflop_max_float32(v5, x[i0r1 - 3]);
        }
    }
}
