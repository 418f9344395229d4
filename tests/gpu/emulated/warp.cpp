// What the lanes of a warp do together. Layouts of operands are those of the PTX ISA, for mma.m16n8k16 and ldmatrix.

#include <cstring>

#include "fibers.h"

namespace emulated {

namespace {

float float_of(unsigned pair, unsigned which) {
    const unsigned short bits = pair >> (16 * which);
    _Float16 half;
    memcpy(&half, &bits, 2);
    return half;
}

template <class T> T& slot_of(void* const* slots, unsigned lane) { return *static_cast<T*>(slots[lane]); }

void run_shuffle(void* const* slots) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!slots[lane])
            continue;
        Shuffle& own = slot_of<Shuffle>(slots, lane);
        if (own.from >= WARP || !slots[own.from])
            fail("lane %u takes the value of lane %u, which does not take part", lane, own.from);
        own.result = slot_of<Shuffle>(slots, own.from).value;
    }
}

void run_ballot(void* const* slots) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (slots[lane] && slot_of<Ballot>(slots, lane).vote)
            votes |= 1u << lane;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (slots[lane])
            slot_of<Ballot>(slots, lane).result = votes;
}

void run_meeting(void* const*) {}

// Lane 4 g + t holds of a, 16 x 16: rows g and g + 8, columns 2 t and 2 t + 8, and the columns after these; of b, 16 x 8:
// column g, rows 2 t and 2 t + 8, and the rows after these; of c, 16 x 8: rows g and g + 8, columns 2 t and 2 t + 1.
void run_product(void* const* slots) {
    float a[16][16], b[16][8], c[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const Product& own = slot_of<Product>(slots, lane);
        const unsigned g = lane / 4, t = lane % 4 * 2;
        for (unsigned i = 0; i < 2; i++) {
            a[g][t + i] = float_of(own.a[0], i);
            a[g + 8][t + i] = float_of(own.a[1], i);
            a[g][t + 8 + i] = float_of(own.a[2], i);
            a[g + 8][t + 8 + i] = float_of(own.a[3], i);
            b[t + i][g] = float_of(own.b0, i);
            b[t + 8 + i][g] = float_of(own.b1, i);
            c[g][t + i] = own.c[i];
            c[g + 8][t + i] = own.c[2 + i];
        }
    }
    for (unsigned row = 0; row < 16; row++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned column = 0; column < 8; column++)
                c[row][column] += a[row][k] * b[k][column];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const Product& own = slot_of<Product>(slots, lane);
        const unsigned g = lane / 4, t = lane % 4 * 2;
        for (unsigned i = 0; i < 2; i++) {
            own.c[i] = c[g][t + i];
            own.c[2 + i] = c[g + 8][t + i];
        }
    }
}

void read_row(const void* from, unsigned short (&row)[8]) {
    if (reinterpret_cast<uintptr_t>(from) % 16)
        fail("ldmatrix of a row at %p, which is not a multiple of 16 bytes", from);
    if (!is_shared(from, 16))
        fail("ldmatrix of a row at %p, which is not in shared memory", from);
    memcpy(row, from, 16);
}

// Lane 8 i + r gives the address of row r of matrix i. Lane 4 r + p gets of each matrix the numbers 2 p and 2 p + 1 of
// row r, or of column r if transposed.
void run_load(void* const* slots, bool transposed) {
    for (unsigned i = 0; i < 4; i++) {
        unsigned short matrix[8][8];
        for (unsigned row = 0; row < 8; row++)
            read_row(slot_of<MatrixRows>(slots, 8 * i + row).row, matrix[row]);
        for (unsigned lane = 0; lane < WARP; lane++) {
            const unsigned r = lane / 4, p = lane % 4 * 2;
            const unsigned low = transposed ? matrix[p][r] : matrix[r][p];
            const unsigned high = transposed ? matrix[p + 1][r] : matrix[r][p + 1];
            slot_of<MatrixRows>(slots, lane).out[i] = low | high << 16;
        }
    }
}

} // namespace

const WarpOperation shuffle = {"a shuffle", run_shuffle};
const WarpOperation ballot = {"a vote", run_ballot};
const WarpOperation meeting = {"__syncwarp", run_meeting};
const WarpOperation product = {"mma", run_product};
const WarpOperation load_matrices = {"ldmatrix", [](void* const* slots) { run_load(slots, false); }};
const WarpOperation load_matrices_transposed = {"ldmatrix.trans", [](void* const* slots) { run_load(slots, true); }};

} // namespace emulated
