#include "pool.h"

namespace burnish {
namespace {

// About 100 microseconds: longer than any gap inside a step, shorter than what an idle core should burn.
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

// Wait until `value` differs from `old`: spin first, then sleep in the kernel.
uint32_t await_change(const std::atomic<uint32_t>& value, uint32_t old) {
    for (int i = 0; i < kSpins; ++i) {
        uint32_t now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        pause();
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

}  // namespace

Pool::Pool(int num_threads) : places_(num_threads) {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
    stopping_ = true;
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::start(Call call, const void* task) {
    call_ = call;
    task_ = task;
    busy_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();  // a system call only when somebody sleeps
    call(task, 0);
    for (uint32_t left = busy_.load(std::memory_order_acquire); left != 0;) left = await_change(busy_, left);
}

void Pool::work(int thread) {
    uint32_t seen = 0;
    while (true) {
        seen = await_change(epoch_, seen);
        if (stopping_) return;
        call_(task_, thread);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
}

}  // namespace burnish
