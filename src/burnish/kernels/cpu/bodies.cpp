#include "bodies.h"

#include <stdexcept>
#include <string>

namespace burnish {
namespace {

bool runs_avx2() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

}  // namespace

const Bodies& best_bodies() {
#ifdef BURNISH_HAS_AVX2
    if (runs_avx2()) return kAvx2;
#endif
    return kPortable;
}

const Bodies& bodies(const char* name) {
    std::string wanted = name;
    if (wanted == "portable") return kPortable;
    if (wanted == best_bodies().name) return best_bodies();
    throw std::invalid_argument("this processor has no kernels called '" + wanted + "'");
}

}  // namespace burnish
