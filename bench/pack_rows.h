#ifndef FAST_BENCH_PACK_ROWS_H
#define FAST_BENCH_PACK_ROWS_H

/* The packing protocols: the same items through every rule, and through the placement itself. */

struct pack_result {
    double value, spread; /* mean over the seeds, and standard deviation */
    long n;
};

/* GPUs used over the area bound when 3,000 replicas arrive and none leaves, |seeds| seeds. Shapes:
 * |mix| "M5": SM from {6, 12, 24, 50} x quota from {0.2 ... 1.0}, both uniform; "M4": areas of the
 * sharing pods of the openb trace with a random SM of the paper's grid that is not below it (needs the
 * trace; then |n| is 0 without it). Prints a row for each rule to stderr; returns the placement's. */
struct pack_result pack_fill(const char *mix, int seeds);

/* 200 GPUs, 30,000 arrivals of mix M5: one that is refused is gone, and a random replica leaves. The
 * result is the area allocated, mean over arrivals 10,000 to 30,000, in %. */
struct pack_result pack_churn(int seeds);

/* 3,000 functions whose throughput stops growing at 12, 24, 50 or 80 % SM, and which need a part of
 * that throughput: any shape up to the knee with the same area will do. GPUs used over the area bound. */
struct pack_result pack_moldable(int seeds);

#endif
