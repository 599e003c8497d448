// Threads that compute one step together: they spin between its operations and park when nothing comes.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace burnish {

class Pool {
public:
    explicit Pool(int num_threads);  // the caller is one of them
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // task(thread) on every thread; returns when all are done. Tasks must not throw.
    template <class Task>
    void run(const Task& task) {
        if (workers_.empty()) return task(0);
        start([](const void* t, int thread) { (*static_cast<const Task*>(t))(thread); }, &task);
    }

    // [0, count) cut into one even run per thread: task(begin, end, thread). The same cut for the same size, always.
    template <class Task>
    void split(int count, const Task& task) {
        if (count <= 1 || workers_.empty()) return task(0, count, 0);
        int threads = size();
        run([&](int thread) {
            int begin = static_cast<int>(static_cast<int64_t>(count) * thread / threads);
            int end = static_cast<int>(static_cast<int64_t>(count) * (thread + 1) / threads);
            if (begin < end) task(begin, end, thread);
        });
    }

    // The same in small pieces: who has finished its own takes from the others, so that a core slowed by somebody else does
    // not hold up the step. For tasks whose results do not depend on where they are cut.
    template <class Task>
    void share(int count, const Task& task) {
        if (count <= 1 || workers_.empty()) return task(0, count, 0);
        int threads = size(), pieces = threads * kPieces < count ? threads * kPieces : count;
        auto border = [&](int64_t piece) { return static_cast<int>(count * piece / pieces); };
        auto end_of = [&](int thread) { return pieces * (thread + 1) / threads; };
        for (int i = 0; i < threads; ++i) places_[i].next.store(pieces * i / threads, std::memory_order_relaxed);
        run([&](int thread) {
            for (int i = 0; i < threads; ++i) {
                int from = (thread + i) % threads;
                for (int piece; (piece = places_[from].next.fetch_add(1, std::memory_order_relaxed)) < end_of(from);)
                    task(border(piece), border(piece + 1), thread);
            }
        });
    }

private:
    static constexpr int kPieces = 8;  // of each thread

    struct alignas(64) Place {
        std::atomic<int> next{0};  // piece of this thread's own that nobody has taken yet
    };

    using Call = void (*)(const void*, int);

    void start(Call call, const void* task);
    void work(int thread);

    std::vector<Place> places_;
    std::vector<std::thread> workers_;
    alignas(64) std::atomic<uint32_t> epoch_{0};  // counts the tasks given out
    alignas(64) std::atomic<uint32_t> busy_{0};   // workers not done yet
    Call call_ = nullptr;
    const void* task_ = nullptr;
    bool stopping_ = false;
};

}  // namespace burnish
