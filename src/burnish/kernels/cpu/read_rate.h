#pragma once
#include <cstddef>

namespace burnish {

// Bytes per second that `threads` read together of memory of that size, each a part of its own, one after the other: the
// best of several passes, as others on the machine only ever make it slower. Memory that a cache holds is read from there.
double read_rate(size_t num_bytes, int threads, int passes);

}  // namespace burnish
