"""Objectives that compare the cells of convolutional maps, each by what it shows or by the place that it looks at."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.losses import pixel_nce
from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.nn.parts import ClassMemory, by_class, projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.types import Batch, ConfigError, Crop, Features, Metrics, Shapes, Views

Rows = tuple[Tensor, Tensor]  # embeddings (C, V, D) of each class, and which of them are some (C, V)
Middles = tuple[float, float]  # pixel of the crop at which the first cell looks, and from one cell to the next
Compared = tuple[Tensor, Tensor, Tensor]  # similarities (A, M) of anchors to keys, masks of positives and negatives


@dataclass(frozen=True)
class PixelContrastConfig(ObjectiveConfig):
    name: str = "pixel_contrast"
    labels: str | None = option(None, "what makes pixels alike; null: the suite's", one_of=("segmentation", "offset"))
    temperature: float = option(0.1, "divisor of the logits; the paper's", above=0)
    projection_dim: int = option(64, "width of the pixels' embeddings; the paper: 256", at_least=1)
    projection_tau: float = option(0.001, "weight of new parameters in the keys' head; MoCo's", above=0, at_most=1)
    anchors: int = option(512, "pixels compared, evenly of classes; the original: 1024", at_least=2)
    classes: int = option(32, "classes; the last has the rest", at_least=2, at_most=256, where="labels=segmentation")
    memory: int = option(64, "pixels and regions kept of each class", at_least=1, where="labels=segmentation")
    added: int = option(10, "of these an update brings", at_least=1, at_most="memory", where="labels=segmentation")
    negatives: int = option(1024, "pixels that anchors are told from", at_least=1, where="labels=offset")
    distance: float = option(0.7, "diagonals of a cell that are one place", above=0, at_most=0.7, where="labels=offset")

    @property
    def needs(self) -> frozenset[str]:
        # Built by hand without a suite, labels are "offset".
        return frozenset({"map", "labels"} if self.labels == "segmentation" else {"map"})


class PixelContrast(Objective):
    """Pull pixels of one class together across images, and push other classes away (Wang et al. 2021).

    With labels=segmentation the classes are the simulator's, and keys come from the batch and from a memory of pixels
    and regions of each class. With labels=offset a pixel's positives are those of the image's other crop that look at
    its place, and the batch's others its negatives (PixContrast of Xie et al. 2021).
    """

    Config, projects = PixelContrastConfig, ""  # its head is of cells
    target_views = ("key",)

    def __init__(self, config: PixelContrastConfig, shapes: Shapes):
        super().__init__(config, shapes)
        if len(shapes.conv) != 3:
            raise ConfigError(
                f"objective={config.name} compares the cells of a convolutional map, and {shapes.conv} is none: train "
                "from pixels or choose another objective"
            )
        self.by_class = "labels" in config.needs
        if self.by_class and shapes.image_size < 1:
            raise ConfigError("objective.labels=segmentation needs Shapes.image_size, the side of uncropped frames")
        self.image_size, self.cells = shapes.image_size, shapes.cells
        # Batch normalisation, as in the original's head, is of whole maps: queries are some pixels, keys can be all.
        self.head = projection_head(shapes.conv[0], shapes.conv[0], config.projection_dim, norm="layer")
        self.target_head = frozen_copy(self.head)
        self.draws: Tensor
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self._pending: tuple[Rows, ...] = ()
        if self.by_class:
            self.pixels = ClassMemory(config.classes, config.memory, config.projection_dim)
            self.regions = ClassMemory(config.classes, config.memory, config.projection_dim)

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        compare = self._by_class if self.by_class else self._by_place
        query = normalised(online.conv(views.query.images))
        with torch.no_grad():
            key = normalised(target.conv(views.key.images))
        logits, positive, negative = compare(batch, views, query, key)
        loss, accuracy = pixel_nce(logits / self.config.temperature, positive, negative)
        return loss, {"accuracy": accuracy}

    def after_step(self) -> None:
        move_average(self.target_head, self.head, self.config.projection_tau)
        self.draws.add_(1)
        if self._pending:
            self.pixels.push(*self._pending[0])
            self.regions.push(*self._pending[1])
            self._pending = ()

    def _by_class(self, batch: Batch, views: Views, query: Tensor, key: Tensor) -> Compared:
        """Compare anchors with everything that is known of each class, in the batch and in the memory."""
        side = query.shape[-1]
        with torch.no_grad():
            self._pending = self._keys(key, self._classes(batch, views.key, side))
            stored = ((memory.rows, memory.known()) for memory in (self.pixels, self.regions))
            keys, valid = (torch.cat(parts, 1) for parts in zip(*stored, *self._pending, strict=True))
            means = F.normalize((keys * valid[..., None]).sum(1), dim=1)
        anchors, own = self._anchors(cells(query), self._classes(batch, views.query, side).flatten(), means)
        labels = torch.arange(len(keys), device=own.device).repeat_interleave(keys.shape[1])
        alike, valid = own[:, None] == labels, valid.flatten()
        # All that is known, as in the authors' code; the paper draws from it.
        return anchors @ keys.flatten(0, 1).T, alike & valid, ~alike & valid

    def _classes(self, batch: Batch, crop: Crop, side: int) -> Tensor:
        if batch.labels is None:
            raise ValueError("objective.labels=segmentation reads Batch.labels: make the environment with labels=True")
        classes = cell_classes(batch.labels, crop, side, self.image_size, self._middles(crop, side))
        return classes.clamp(max=self.config.classes - 1)

    def _middles(self, crop: Crop, side: int) -> Middles:
        """Return where the map's cells look; without an encoder's word at the middle of even shares."""
        step = crop.images.shape[-1] / side
        return self.cells or (step / 2, step)

    def _keys(self, key: Tensor, classes: Tensor) -> tuple[Rows, Rows]:
        """Return some pixels of each class (C, V, D) and its means over images (C, R, D), each with its mask."""
        config, rows = self.config, self._embed(self.target_head, cells(key))
        order, starts = by_class(classes.flatten(), config.classes, self._noise(len(rows), 1))
        places = starts[:-1, None] + torch.arange(config.added, device=key.device)
        pixels = rows[order[places.clamp(max=len(rows) - 1)]]
        members = classes.flatten(1)[..., None] == torch.arange(config.classes, device=key.device)
        regions = members.transpose(1, 2).to(rows.dtype) @ rows.unflatten(0, (len(classes), -1))
        shown = members.any(1).T
        # Images that show the class come first.
        images = torch.argsort(shown.int(), dim=1, descending=True, stable=True)[:, : config.added]
        regions = F.normalize(regions.transpose(0, 1).take_along_dim(images[..., None], 1), dim=2)
        return (pixels, places < starts[1:, None]), (regions, shown.take_along_dim(images, 1))

    def _anchors(self, maps: Tensor, classes: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings and classes of anchors, half of each class random and half its hardest (section 3.2).

        Without a segmentation head's errors, hard is a pixel that resembles another class's mean more than its own's;
        the hardest are sought among twice as many as there are anchors.
        """
        half, count = self.config.anchors // 2, len(means)
        drawn = evenly(classes, count, self._noise(len(classes), 0), 2 * self.config.anchors)
        embeddings, own = self._embed(self.head, maps[drawn]), classes[drawn]
        with torch.no_grad():
            likeness, mine = embeddings @ means.T, own[:, None]
            others = likeness.masked_fill((means == 0).all(1), -1).scatter(1, mine, -1).amax(1)
            ease = 2 + likeness.take_along_dim(mine, 1).squeeze(1) - others
            hardest = evenly(own, count, (ease.clamp(min=0) * 2**29).long(), self.config.anchors - half)
        # A pixel can be of both halves.
        picked = torch.cat([torch.arange(min(half, len(drawn)), device=own.device), hardest])
        return embeddings[picked], own[picked]

    def _by_place(self, batch: Batch, views: Views, query: Tensor, key: Tensor) -> Compared:
        """Compare anchors with the four keys around their place in the other crop, and with others of the batch."""
        side, rows = query.shape[-1], cells(key)
        chosen = self._noise(len(rows), 0).argsort()[: self.config.anchors]
        others = self._noise(len(rows), 1).argsort()[: self.config.negatives]
        image, cell = split(chosen, side)
        moved = (views.query.offsets - views.key.offsets)[image]
        place = cell + moved / self._middles(views.query, side)[1]  # in cells of the key's map
        around = place.floor().long()[:, None] + split(torch.arange(4, device=key.device), 2)[1]
        near = self._near(place[:, None], around) & ((around >= 0) & (around < side)).all(2)
        around = around.clamp(0, side - 1)
        with torch.no_grad():
            keys = self._embed(self.target_head, rows[(image[:, None] * side + around[..., 0]) * side + around[..., 1]])
            rest = self._embed(self.target_head, rows[others])
        anchors = self._embed(self.head, cells(query)[chosen])
        logits = torch.cat([(anchors[:, None] * keys).sum(2), anchors @ rest.T], 1)
        other_image, other_cell = split(others, side)
        far = (image[:, None] != other_image) | ~self._near(place[:, None], other_cell)
        return logits, F.pad(near, (0, len(others))), F.pad(far, (4, 0))

    def _near(self, one: Tensor, other: Tensor) -> Tensor:
        return (one - other).square().sum(-1) < 2 * self.config.distance**2

    def _embed(self, head: nn.Module, rows: Tensor) -> Tensor:
        return F.normalize(head(rows), dim=-1)

    def _noise(self, count: int, stream: int) -> Tensor:
        """Return different numbers in an order that changes with every step; a generator would end a CUDA graph."""
        return scrambled(torch.arange(count, device=self.draws.device) ^ scrambled(2 * self.draws + stream))


def normalised(maps: Tensor) -> Tensor:
    """Return maps (B, c, h, w) with mean 0 and variance 1 in each channel, without which all cells look alike."""
    return F.batch_norm(maps, None, None, training=True)


def cells(maps: Tensor) -> Tensor:
    """Return maps (B, c, h, w) as rows (B * h * w, c)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def split(rows: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the image (n,) of each row of `cells` and its row and column on the map (n, 2)."""
    return rows // side**2, torch.stack([rows // side % side, rows % side], 1)


def cell_classes(labels: Tensor, crop: Crop, side: int, image_size: int, middles: Middles) -> Tensor:
    """Return the class (B, side, side) int64 of what each cell of a crop's map looks at.

    Cell i looks at pixel middles[0] + i * middles[1] of the crop; beyond the image's border lies what is at the border.
    Args: labels (B, s, s) of uncropped frames with sides of `image_size` pixels.
    """
    span = torch.arange(side, dtype=torch.float64, device=labels.device)
    pixel = crop.offsets[..., None] + middles[0] + span * middles[1]
    # A hair more: rounding must not take a place on a label's border to its other side.
    index = (pixel * labels.shape[-1] / image_size + 1e-9).floor().long().clamp(0, labels.shape[-1] - 1)
    image = torch.arange(len(labels), device=labels.device)[:, None, None]
    return labels[image, index[:, 0, :, None], index[:, 1, None, :]].long()


def evenly(classes: Tensor, count: int, rank: Tensor, size: int) -> Tensor:
    """Return at most `size` items: of each class its first, then of each its second, as far as they go.

    Args: as `by_class`.
    """
    order, starts = by_class(classes, count, rank)
    turn = torch.arange(len(order), device=order.device) - starts[classes[order]]
    return order[(turn * count + classes[order]).topk(min(size, len(order)), largest=False).indices]


def scrambled(x: Tensor) -> Tensor:
    """Return numbers in [0, 2**32), int64, as others of that range, one to one (the finaliser of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x
