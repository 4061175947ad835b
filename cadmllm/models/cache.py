"""Keys and values of what was read and written, kept in place: nothing is joined, and nothing computed over unfilled room.

Every layer has two buffers [rows, heads, room, head_dim]. A step writes its keys and values behind the others, and attention is
given a view of the filled part. The room grows in blocks, by a quarter at least, so that a budget of 16,384 tokens costs nothing
until they are written, and what is moved for it stays below five times the final size however long an answer gets. Rows that are
done leave: the last rows move into their places, and the view gets shorter.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BLOCK = 64  # tokens
ATTENTION = {"full_attention", "sliding_attention"}  # kinds of layers whose state is keys and values, a token each


class RowCache(Protocol):
    """What generation asks of a cache, beyond what the decoder does."""

    def taken(self, rows: Sequence[int], first: int) -> tuple[RowCache, int]:
        """Another cache that holds these rows in this order, each as often as it is named; this one stays as it is.

        Args:
            rows: indices.
            first: leading tokens that are padding in all of them and need not be kept.

        Returns:
            The cache, and how many leading tokens it leaves out.
        """
        ...

    def keep(self, rows: Sequence[int], first: int) -> int:
        """Only these rows stay: arguments as for `taken`; those that move come from behind all that stay.

        Returns:
            How many leading tokens are left out from now on.
        """
        ...


def empty_cache(config: PreTrainedConfig) -> Cache:
    """A cache for a decoder: ours, or transformers' own where a layer keeps something else than keys and values of every token.

    Args:
        config: the decoder's.
    """
    asked = config.get_text_config(decoder=True).to_dict()
    plain = set(asked.get("layer_types") or ATTENTION) <= ATTENTION and not asked.get("kv_sharing_modes")
    return InPlaceCache() if plain else TheirCache(config=config)


class InPlaceLayer(DynamicLayer):
    """One layer: `keys` and `values` are views of the filled part, [rows, heads, tokens, head_dim]."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: list[Tensor] = []  # of keys and of values
        self.first = self.filled = self.rows = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write [rows, heads, T, head_dim] behind what there is; gives views of all of it."""
        given = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(*given)
            self.rows = key_states.shape[0]
            self.rooms = [_room(states, states.shape[2]) for states in given]
        elif self.filled + key_states.shape[2] > self.rooms[0].shape[2]:
            self._move(key_states.shape[2])
        end = self.filled + key_states.shape[2]
        for room, states in zip(self.rooms, given, strict=True):
            room[: self.rows, :, self.filled : end] = states
        self.filled = end
        return self._look()

    def taken(self, rows: Tensor, first: int) -> InPlaceLayer:
        """See `RowCache.taken`."""
        other = InPlaceLayer()
        other.dtype, other.device, other.is_initialized = self.dtype, self.device, True
        other.rows, other.filled = len(rows), self.filled - self.first - first
        for mine in self.rooms:
            states = mine[: self.rows, :, self.first + first : self.filled]
            room = _room(states, other.filled, len(rows))
            room[:, :, : other.filled] = states.index_select(0, rows.to(states.device))
            other.rooms.append(room)
        other._look()
        return other

    def keep(self, rows: Tensor, first: int) -> None:
        """See `RowCache.keep`."""
        self.first += first
        to = (rows != torch.arange(len(rows))).nonzero()[:, 0]
        if len(to):
            where, whence = (places.to(self.device) for places in (to, rows[to]))
            for room in self.rooms:
                filled = room[:, :, self.first : self.filled]
                filled[where] = filled[whence]
        self.rows = len(rows)
        self._look()

    def reset(self) -> None:
        """Forget everything."""
        self.__init__()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; as transformers has it, their number is given below zero."""
        self.filled -= abs(tokens_to_remove)
        self._look()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Hold these rows in this order."""
        self.__dict__.update(self.taken(indices, 0).__dict__)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The same."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Hold each row several times."""
        self.batch_select_indices(torch.arange(self.rows).repeat_interleave(repeats))

    def _move(self, more: int) -> None:
        """To larger rooms, one after the other: never more than one of them is there twice."""
        held = self.filled - self.first
        self.keys = self.values = None  # views of what is to be given back
        for which in (0, 1):
            states = self.rooms[which][: self.rows, :, self.first : self.filled]
            room = _room(states, held + more + held // 4)
            room[:, :, :held] = states
            self.rooms[which] = room
        self.first, self.filled = 0, held

    def _look(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (room[: self.rows, :, self.first : self.filled] for room in self.rooms)
        return self.keys, self.values


def _room(like: Tensor, tokens: int, rows: int | None = None) -> Tensor:
    """An empty buffer for at least `tokens` tokens of states [rows, heads, T, head_dim]."""
    heads, width = like.shape[1], like.shape[3]
    return like.new_empty(like.shape[0] if rows is None else rows, heads, -(-(tokens + 1) // BLOCK) * BLOCK, width)


class InPlaceCache(Cache):
    """All layers, made as they come. A layer that looks back less far keeps everything all the same; its mask hides it."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=InPlaceLayer)

    def taken(self, rows: Sequence[int], first: int) -> tuple[InPlaceCache, int]:
        """See `RowCache.taken`."""
        other, which = InPlaceCache(), torch.tensor(rows)
        other.layers = [layer.taken(which, first) for layer in self._ours()]
        return other, first

    def keep(self, rows: Sequence[int], first: int) -> int:
        """See `RowCache.keep`."""
        which = torch.tensor(rows)
        for layer in self._ours():
            layer.keep(which, first)
        return first

    def _ours(self) -> list[InPlaceLayer]:
        return cast("list[InPlaceLayer]", self.layers)


class TheirCache(DynamicCache):
    """transformers' own, for decoders with other layers (linear attention, shared keys): joined anew at each token."""

    def taken(self, rows: Sequence[int], first: int) -> tuple[TheirCache, int]:
        """See `RowCache.taken`; padding stays."""
        other = copy.deepcopy(self)
        other.keep(rows, first)
        return other, 0

    def keep(self, rows: Sequence[int], first: int) -> int:
        """See `RowCache.keep`; padding stays."""
        self.reorder_cache(cast("torch.LongTensor", torch.tensor(rows)))  # an index as good as any, for every kind of layer
        return 0
