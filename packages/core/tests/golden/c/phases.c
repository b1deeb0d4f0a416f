#pragma STDC FP_CONTRACT OFF
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

float sinf(float x);

void kernel_e8e40f81b669b32b_0(void **buffers, const int64_t *variables, char *scratch, int64_t first, int64_t last)
{
    const float *x = buffers[0];
    float *m = (float *)((char *)buffers[2] + 0);
    for (int64_t task0 = first; task0 < last; task0++) {
        #pragma GCC ivdep
        for (int64_t iv = 0; iv < 4; iv++) {
            m[iv] = sinf(x[iv]);
        }
        for (int64_t i0r1 = 4; i0r1 < 6; i0r1++) {
            m[i0r1] = sinf(x[i0r1]);
        }
    }
}

void kernel_e8e40f81b669b32b_1(void **buffers, const int64_t *variables, char *scratch, int64_t first, int64_t last)
{
    float *o = buffers[1];
    float *m = (float *)((char *)buffers[2] + 0);
    for (int64_t task1 = first; task1 < last; task1++) {
        #pragma GCC ivdep
        for (int64_t jv = 0; jv < 4; jv++) {
            o[jv] = m[(jv * (-1)) + 5];
        }
        for (int64_t j0r1 = 4; j0r1 < 6; j0r1++) {
            o[j0r1] = m[(j0r1 * (-1)) + 5];
        }
    }
}
