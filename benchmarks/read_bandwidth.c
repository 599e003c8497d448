/* Bytes per second that N threads read from memory, each from a part of its own, one after the other.
 *
 *     read_bandwidth THREADS
 *
 * Prints the best of PASSES: others on the machine only ever make it slower.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PASSES = 12, MAX_THREADS = 256, AHEAD = 2048 };
static const size_t TOTAL = (size_t)1 << 30;

typedef uint64_t vector __attribute__((vector_size(32)));

typedef struct {
    const vector *data;
    size_t count;
    vector sum; /* so that no read is left out */
    pthread_barrier_t *barrier;
} part;

static void read_once(part *own) {
    vector a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < own->count; i += 4) {
        __builtin_prefetch((const char *)(own->data + i) + AHEAD);
        __builtin_prefetch((const char *)(own->data + i) + AHEAD + 64);
        a ^= own->data[i];
        b ^= own->data[i + 1];
        c ^= own->data[i + 2];
        d ^= own->data[i + 3];
    }
    own->sum ^= a ^ b ^ c ^ d;
}

static void *run(void *argument) {
    part *own = argument;
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(own->barrier);
        read_once(own);
        pthread_barrier_wait(own->barrier);
    }
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    int threads = argc == 2 ? atoi(argv[1]) : 0;
    if (threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "usage: read_bandwidth THREADS\n");
        return 2;
    }
    char *memory = mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    madvise(memory, TOTAL, MADV_HUGEPAGE);
    memset(memory, 1, TOTAL);

    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    part parts[MAX_THREADS] = {0};
    pthread_t ids[MAX_THREADS];
    size_t count = TOTAL / sizeof(vector) / (size_t)threads / 4 * 4;
    for (int i = 0; i < threads; i++) {
        parts[i].data = (const vector *)memory + (size_t)i * count;
        parts[i].count = count;
        parts[i].barrier = &barrier;
        if (pthread_create(&ids[i], NULL, run, &parts[i]) != 0) {
            fprintf(stderr, "no thread\n");
            return 1;
        }
    }
    double best = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(&barrier);
        double start = now();
        pthread_barrier_wait(&barrier);
        double rate = (double)(count * sizeof(vector) * (size_t)threads) / (now() - start);
        best = rate > best ? rate : best;
    }
    volatile uint64_t sink = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        sink ^= parts[i].sum[0] ^ parts[i].sum[1] ^ parts[i].sum[2] ^ parts[i].sum[3];
    }
    printf("%.0f\n", best);
    return 0;
}
