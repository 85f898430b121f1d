"""Every table, figure and measured claim of both papers, and the experiment that asks for it.

What the papers say is quoted as figures; what was found here comes from the committed rows, by the
`headline` of the experiment. The authors' code is the one published with the BBI paper; there is
none for the KO paper.
"""

from typing import NamedTuple

__all__ = ["ITEMS", "Item"]

NONE = "-"


class Item(NamedTuple):
    """One table, figure or claim.

    Attributes:
        paper: "KO" or "BBI".
        place: Where it stands.
        claim: What the paper says or shows.
        authors: What the authors' published code gives.
        experiment: The module under `benchmarks` that measures it, or where else it is shown.
    """

    paper: str
    place: str
    claim: str
    authors: str
    experiment: str


def _ko(place: str, claim: str, experiment: str) -> Item:
    return Item("KO", place, claim, NONE, experiment)


def _bbi(place: str, claim: str, experiment: str, authors: str = NONE) -> Item:
    return Item("BBI", place, claim, authors, experiment)


ITEMS = (
    _ko("Fig. 1", "diagram of the two collisions", "README"),
    _ko("Theorem 3.3", "soft and hard collisions both lower weight correlation", "ko.theorem"),
    _ko("Theorem 3.7, Eq. 2 to 4", "collisions raise entropy to its maximum", "evidence.gas"),
    _ko("Fig. 2", "soft and hard hinder condensation in a 5-50-1 network", "ko.condensation"),
    _ko(
        "Table 1",
        "CIFAR-10, ResNet-18: 95.07 %, soft 95.74, hard 95.58; CIFAR-100: 78.69, 78.98, 78.81",
        "ko.images",
    ),
    _ko("Fig. 3", "neuron similarity stays lower with collisions", "ko.images"),
    _ko(
        "Table 2",
        "ImageNet, ResNet-50: 79.70 %, soft 80.23, hard 79.98; ConvNeXt-T: 82.10, 82.34, 82.17",
        "ko.imagenet",
    ),
    _ko(
        "Table 3",
        "BERT: IMDB 92.52 %, soft 93.80, hard 93.42; Snips 98.14, 98.43, 98.43",
        "ko.text",
    ),
    _ko(
        "Fig. 4", "collisions slow the condensation of a ResNet-18's head", "ko.condensation_images"
    ),
    _ko("section 4.2", "3.69 h with soft collisions, 3.68 h without: ratio 1.003", "ko.overhead"),
    _bbi("Fig. 1", "the test functions", "bbi.ackley"),
    _bbi("Fig. 2", "a trajectory stops at Ackley's global minimum", "bbi.ackley"),
    _bbi(
        "Fig. 3, section 4.1",
        "Ackley: BBI reaches 5e-4 from 90 of 100 starts, tuned momentum from 2",
        "bbi.ackley",
        "83 of 100, with exp(-0.02 r); 0 of 100",
    ),
    _bbi(
        "Fig. 4, section 4.2",
        "Zakharov, n = 10: BBI to 1e-22 within 10,000 steps",
        "bbi.zakharov",
        "1e-22; tuned momentum 4.4e-12",
    ),
    _bbi(
        "Figs. 5 and 6, section 4.3",
        "two basins: ratio of runs 11 % from the mixing ratio 1.93",
        "bbi.basins",
        "1265 : 734 = 1.72",
    ),
    _bbi("Fig. 7, section 4.4", "BBI finds two solutions of one Poisson problem", "bbi.pde"),
    _bbi(
        "Table 2",
        "MNIST: mean 99.177 % (SGD 99.166), median 99.190 (98.160); "
        "CIFAR-10: mean 92.434 (92.628), median 92.435 (92.655)",
        "bbi.images",
        "CIFAR-10: BBI 92.6 to 93.1 %, SGD 92.9 to 93.2",
    ),
    _bbi("section 3.2, A.4", "noise of minibatches bounded by the speed limit", "bbi.stochastic"),
    _bbi("section 5", "a step costs no more than one of Adam (left open)", "speed.steps"),
)
