#pragma STDC FP_CONTRACT OFF
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

static int64_t petaflop_max_int64(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t petaflop_min_int64(int64_t a, int64_t b) { return a < b ? a : b; }

float fmaf(float a, float b, float c);

void kernel_cae8585a0fb4ec3b_0(void **buffers, const int64_t *variables, char *scratch, int64_t first, int64_t last)
{
    const float *x = buffers[0];
    const float *w = buffers[1];
    const int32_t *n = buffers[2];
    const float *v = buffers[3];
    float *o = buffers[4];
    float *p = buffers[5];
    const int64_t int_2 = variables[0];
    for (int64_t task0 = petaflop_max_int64(first - 0, 0); task0 < petaflop_min_int64(last - 0, ((int_2 + 455) / 456)); task0++) {
        const int64_t v1 = task0 * 456;
        for (int64_t i1 = v1; i1 < ((v1 < (int_2 - 456)) ? (v1 + 456) : int_2); i1++) {
            float s_0_1[16];
            #pragma GCC unroll 4
            for (int64_t lane_u = 0; lane_u < 4; lane_u++) {
                #pragma GCC ivdep
                for (int64_t lane_v = 0; lane_v < 4; lane_v++) {
                    s_0_1[(lane_u * 4) + lane_v] = 0.0f;
                }
            }
            for (int64_t r0 = 0; r0 < 32; r0 += 16) {
                #pragma GCC unroll 4
                for (int64_t ru = 0; ru < 4; ru++) {
                    #pragma GCC ivdep
                    for (int64_t rv = 0; rv < 4; rv++) {
                        const int64_t v2 = ru * 4;
                        const int64_t v3 = v2 + rv;
                        s_0_1[v3] = fmaf(x[(((i1 * 40) + r0) + v2) + rv], w[(r0 + v2) + rv], s_0_1[v3]);
                    }
                }
            }
            for (int64_t r0r1 = 32; r0r1 < 40; r0r1 += 4) {
                #pragma GCC ivdep
                for (int64_t rv = 0; rv < 4; rv++) {
                    s_0_1[rv] = fmaf(x[((i1 * 40) + r0r1) + rv], w[r0r1 + rv], s_0_1[rv]);
                }
            }
            #pragma GCC unroll 2
            for (int64_t lane_u = 0; lane_u < 2; lane_u++) {
                #pragma GCC ivdep
                for (int64_t lane_v = 0; lane_v < 4; lane_v++) {
                    const int64_t v4 = (lane_u * 4) + lane_v;
                    s_0_1[v4] = s_0_1[v4] + s_0_1[v4 + 8];
                }
            }
            #pragma GCC ivdep
            for (int64_t lane_v = 0; lane_v < 4; lane_v++) {
                s_0_1[lane_v] = s_0_1[lane_v] + s_0_1[lane_v + 4];
            }
            #pragma GCC ivdep
            for (int64_t lane_v = 0; lane_v < 2; lane_v++) {
                s_0_1[lane_v] = s_0_1[lane_v] + s_0_1[lane_v + 2];
            }
            s_0_1[0] = s_0_1[0] + s_0_1[1];
            o[i1] = s_0_1[0];
        }
    }
    for (int64_t task1 = petaflop_max_int64(first - ((int_2 + 455) / 456), 0); task1 < petaflop_min_int64(last - ((int_2 + 455) / 456), 1); task1++) {
        for (int64_t k0 = 0; k0 < int_2; k0++) {
            const int64_t v5 = (int64_t)n[k0];
            if (((-1) < v5) & (v5 < 5)) p[v5] = v[k0];
        }
    }
}
