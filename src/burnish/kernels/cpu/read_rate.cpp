// How fast threads together read memory: the limit that decoding is held against.
#include "read_rate.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "pool.h"

namespace burnish {
namespace {

typedef uint64_t Vector __attribute__((vector_size(32)));

constexpr size_t kAhead = 2048;             // bytes fetched beforehand
constexpr size_t kPage = size_t{2} << 20;   // large pages: no time for page tables
constexpr size_t kLeast = size_t{64} << 20;  // read in a pass, so that it lasts longer than the clock is coarse

struct Part {
    const Vector* data;
    size_t count;
    alignas(64) Vector sum{};  // so that no read is left out
};

void read_once(Part& own) {
    Vector a{}, b{}, c{}, d{};
    for (size_t i = 0; i < own.count; i += 4) {
        const char* next = reinterpret_cast<const char*>(own.data + i) + kAhead;
        __builtin_prefetch(next);
        __builtin_prefetch(next + 64);
        a ^= own.data[i];
        b ^= own.data[i + 1];
        c ^= own.data[i + 2];
        d ^= own.data[i + 3];
    }
    own.sum ^= a ^ b ^ c ^ d;
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

double read_rate(size_t num_bytes, int threads, int passes) {
    size_t room = (num_bytes + kPage - 1) / kPage * kPage;
    std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char*>(std::aligned_alloc(kPage, room)), &std::free);
    if (!memory) throw std::bad_alloc();
    madvise(memory.get(), room, MADV_HUGEPAGE);
    Pool pool(threads);
    size_t count = num_bytes / sizeof(Vector) / static_cast<size_t>(threads) / 4 * 4;
    size_t repeats = kLeast / num_bytes + 1;
    std::vector<Part> parts(static_cast<size_t>(threads));
    for (size_t i = 0; i < parts.size(); ++i) {
        parts[i].data = reinterpret_cast<const Vector*>(memory.get()) + i * count;
        parts[i].count = count;
    }
    std::memset(memory.get(), 1, room);
    double best = 0;
    for (int pass = 0; pass < passes; ++pass) {
        double begun = now();
        pool.run([&](int thread) {
            for (size_t i = 0; i < repeats; ++i) read_once(parts[static_cast<size_t>(thread)]);
        });
        double rate = static_cast<double>(count * sizeof(Vector) * parts.size() * repeats) / (now() - begun);
        best = rate > best ? rate : best;
    }
    volatile uint64_t sink = 0;
    for (const Part& part : parts) sink = sink ^ part.sum[0] ^ part.sum[1] ^ part.sum[2] ^ part.sum[3];
    return best;
}

}  // namespace burnish
