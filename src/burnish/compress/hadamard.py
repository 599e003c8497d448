"""Rotations whose entries are all alike in size: each column of what they turn is spread over all columns.

A Hadamard matrix has entries of 1 and -1 and orthogonal rows. There is one for every power of two (Sylvester 1867) and
for many multiples of four beside a prime (Paley 1933); products of both serve most widths models have. A width without
one takes a random orthogonal block in its place, which spreads less evenly. Random signs before it, as in QuaRot
(Ashkboos et al. 2024), keep what is constant from adding up in one column.

Shapes: n width, n = a * b.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Orthogonal:
    """The matrix ``diag(signs) (left x right)``, the latter a Kronecker product; it is never written out."""

    signs: Tensor  # (n,)
    left: Tensor  # (a, a) orthogonal, float64
    right: Tensor  # (b, b) orthogonal, float64

    def turn(self, rows: Tensor) -> Tensor:
        """Rows (..., k * n) times the matrix, each of the k pieces for itself, in the rows' own type."""
        signs, left, right = (part.to(rows.dtype) for part in (self.signs, self.left, self.right))
        pieces = (rows.reshape(-1, len(signs)) * signs).view(-1, len(left), len(right))
        return (left.T @ pieces @ right).reshape(rows.shape)

    def turn_columns(self, columns: Tensor) -> Tensor:
        """The transposed matrix times columns (k * n, m): what layers that write these rows hold instead."""
        return self.turn(columns.T).T.contiguous()


def random_rotation(width: int, generator: torch.Generator) -> Orthogonal:
    """A rotation of rows of that width with random signs."""
    signs = torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1
    odd = width
    while odd % 2 == 0:
        odd //= 2
    if odd == 1:
        power = width.bit_length() - 1
        left, right = sylvester(1 << power // 2), sylvester(1 << power - power // 2)
        return Orthogonal(signs, left / len(left) ** 0.5, right / len(right) ** 0.5)
    block = _smallest_block(odd, width)
    right = _orthogonal(odd, generator) if block is None else block / len(block) ** 0.5
    left = sylvester(width // len(right))
    return Orthogonal(signs, left / len(left) ** 0.5, right)


def sylvester(order: int) -> Tensor:
    """The Hadamard matrix (order, order) of a power of two, float64."""
    made = torch.ones(1, 1, dtype=torch.float64)
    while len(made) < order:
        made = torch.cat((torch.cat((made, made), 1), torch.cat((made, -made), 1)))
    return made


def paley(order: int) -> Tensor | None:
    """A Hadamard matrix (order, order) by quadratic residues of a prime, float64; None where there is no such prime."""
    if _is_prime(order - 1) and (order - 1) % 4 == 3:
        border = _bordered(order - 1, corner=-1)
        return border + torch.eye(order, dtype=torch.float64)
    half = order // 2
    if order % 2 == 0 and _is_prime(half - 1) and (half - 1) % 4 == 1:
        wide, narrow = torch.tensor([[1, 1], [1, -1]]).double(), torch.tensor([[1, -1], [-1, -1]]).double()
        return torch.kron(_bordered(half - 1, corner=1), wide) + torch.kron(torch.eye(half).double(), narrow)
    return None


def _smallest_block(odd: int, width: int) -> Tensor | None:
    """The smallest Hadamard matrix of an order that is ``odd`` times a power of two and divides the width."""
    order = 4 * odd
    while width % order == 0:
        block = paley(order)
        if block is not None:
            return block
        order *= 2
    return None


def _bordered(prime: int, *, corner: int) -> Tensor:
    """Whether differences are squares (1) or not (-1), with a border of ones, ``corner`` down the side."""
    residues = torch.full((prime,), -1.0, dtype=torch.float64)
    residues[torch.arange(1, prime) ** 2 % prime] = 1
    residues[0] = 0
    places = torch.arange(prime)
    made = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    made[0, 1:], made[1:, 0] = 1, corner
    made[1:, 1:] = residues[(places.unsqueeze(1) - places) % prime]
    return made


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _orthogonal(order: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (order, order), float64."""
    drawn = torch.empty(order, order, dtype=torch.float64).normal_(generator=generator)
    found: Tensor = torch.linalg.qr(drawn).Q
    return found
