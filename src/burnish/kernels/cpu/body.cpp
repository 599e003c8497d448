// One instruction set's kernels. Compiled once per set; CMakeLists.txt says with which lanes and flags.
// No template of the standard library is used here: its code, compiled for one set, could be linked for all.
#include "bodies.h"

#ifdef BURNISH_AVX2
#include "simd_avx2.h"
#define BODIES kAvx2
#else
#include "simd_portable.h"
#define BODIES kPortable
#endif

namespace burnish {

#include "linear.h"
#include "rows.h"
#include "attention.h"
#include "sampling.h"

const Bodies BODIES = {
    LANES_NAME,  linear_int8, linear_float, embed_row, embed_add, rms_norm, layer_norm, add_row,           quantize, gate,
    activate,    softcap,     rotate,       write_keys, attend,   attention_scratch,    argmax,            weigh,
};

}  // namespace burnish
