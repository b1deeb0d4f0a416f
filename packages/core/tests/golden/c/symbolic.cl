#pragma OPENCL FP_CONTRACT OFF
typedef char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;

double fma(double a, double b, double c);

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void kernel_cae8585a0fb4ec3b_0(__global char *scratch, __global char *shared, __global const float *x, __global const float *w, __global const int *n, __global const float *v, __global float *o, __global float *p, const int int_2)
{
    for (int task0 = get_group_id(0) - 0; task0 < ((int_2 + 455) / 456); task0 += get_num_groups(0))
        if (task0 >= 0) {
        const int v1 = task0 * 456;
        for (int i1 = v1; i1 < ((v1 < (int_2 - 456)) ? (v1 + 456) : int_2); i1++) {
            float s_0_1[16];
            __attribute__((opencl_unroll_hint(4)))
            for (int lane_u = 0; lane_u < 4; lane_u++) {
                for (int lane_v = 0; lane_v < 4; lane_v++) {
                    s_0_1[(lane_u * 4) + lane_v] = 0.0f;
                }
            }
            for (int r0 = 0; r0 < 32; r0 += 16) {
                __attribute__((opencl_unroll_hint(4)))
                for (int ru = 0; ru < 4; ru++) {
                    for (int rv = 0; rv < 4; rv++) {
                        const int v2 = ru * 4;
                        const int v3 = v2 + rv;
                        s_0_1[v3] = fma(x[(((i1 * 40) + r0) + v2) + rv], w[(r0 + v2) + rv], s_0_1[v3]);
                    }
                }
            }
            for (int r0r1 = 32; r0r1 < 40; r0r1 += 4) {
                for (int rv = 0; rv < 4; rv++) {
                    s_0_1[rv] = fma(x[((i1 * 40) + r0r1) + rv], w[r0r1 + rv], s_0_1[rv]);
                }
            }
            __attribute__((opencl_unroll_hint(2)))
            for (int lane_u = 0; lane_u < 2; lane_u++) {
                for (int lane_v = 0; lane_v < 4; lane_v++) {
                    const int v4 = (lane_u * 4) + lane_v;
                    s_0_1[v4] = s_0_1[v4] + s_0_1[v4 + 8];
                }
            }
            for (int lane_v = 0; lane_v < 4; lane_v++) {
                s_0_1[lane_v] = s_0_1[lane_v] + s_0_1[lane_v + 4];
            }
            for (int lane_v = 0; lane_v < 2; lane_v++) {
                s_0_1[lane_v] = s_0_1[lane_v] + s_0_1[lane_v + 2];
            }
            s_0_1[0] = s_0_1[0] + s_0_1[1];
            o[i1] = s_0_1[0];
        }
    }
    for (int task1 = get_group_id(0) - ((int_2 + 455) / 456); task1 < 1; task1 += get_num_groups(0))
        if (task1 >= 0) {
        for (int k0 = 0; k0 < int_2; k0++) {
            const int v5 = (int)n[k0];
            if (((-1) < v5) & (v5 < 5)) p[v5] = v[k0];
        }
    }
}
