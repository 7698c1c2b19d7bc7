// Reads memory as fast as it goes: bandwidth THREADS MEGABYTES ROUNDS [STREAMS] prints the GB/s of each round.
//
// Each thread sums its own part of one array, which is to be much larger than the caches, from its first byte to its last;
// with several streams, from as many places side by side, each in pieces of 20 KB.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef uint64_t words __attribute__((vector_size(64)));
enum { UNROLL = 8, PIECE = 320 };

static pthread_barrier_t begin, end;
static int rounds;
static size_t streams = 1;
static volatile uint64_t sink;

struct part {
    const words *data;
    size_t count;
};

static uint64_t sum(const words *data, size_t count) {
    words sums[UNROLL] = {0};
    if (streams == 1)
        for (size_t i = 0; i + UNROLL <= count; i += UNROLL)
            for (int j = 0; j < UNROLL; j++) sums[j] += data[i + j];
    else
        for (size_t first = 0; first + streams * PIECE <= count; first += streams * PIECE)
            for (size_t i = 0; i + UNROLL <= PIECE; i += UNROLL)
                for (size_t s = 0; s < streams; s++)
                    for (int j = 0; j < UNROLL; j++) sums[j] += data[first + s * PIECE + i + j];
    uint64_t all = 0;
    for (int j = 0; j < UNROLL; j++)
        for (int k = 0; k < 8; k++) all += sums[j][k];
    return all;
}

static void *work(void *argument) {
    const struct part *part = argument;
    for (int round = 0; round < rounds; round++) {
        pthread_barrier_wait(&begin);
        sink = sum(part->data, part->count);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int count, char **words_given) {
    if (count != 4 && count != 5) return fprintf(stderr, "bandwidth THREADS MEGABYTES ROUNDS [STREAMS]\n"), 2;
    int threads = atoi(words_given[1]);
    size_t bytes = (size_t)atoi(words_given[2]) << 20;
    rounds = atoi(words_given[3]);
    if (count == 5) streams = strtoul(words_given[4], NULL, 10);
    if (threads < 1 || threads > 256 || bytes == 0 || rounds < 1 || streams < 1 || streams > 64) return 2;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return perror("mmap"), 1;
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);
    pthread_barrier_init(&begin, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    struct part parts[256];
    size_t each = bytes / sizeof(words) / threads;
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        parts[i] = (struct part){(const words *)memory + i * each, each};
        if (pthread_create(&thread, NULL, work, &parts[i])) return perror("pthread_create"), 1;
    }
    for (int round = 0; round < rounds; round++) {
        double begun = now();
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        printf("%.3f\n", 1e-9 * each * sizeof(words) * threads / (now() - begun));
    }
    return 0;
}
