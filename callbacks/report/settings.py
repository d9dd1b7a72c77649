"""What a report shows, and how much of it."""

from dataclasses import dataclass, field
from typing import Literal

from lightning_modules.errors import ConfigError

FILE = "report.html"
Projection = Literal["tsne", "pca", "umap"]


@dataclass(frozen=True)
class Report:
    """How a report is made.

    Attributes:
        enabled: Whether ``fit`` ends with the report, ``report.html`` in the run folder.
        pictures: Pictures of every class in each gallery.
        points: Images in a projection of the features, about two thirds of them real.
        searched: Real training images among which a generated one looks for its nearest neighbour.
        projections: How the features are laid out in the plane; ``umap`` needs the extra ``umap`` and takes longest.
    """

    enabled: bool = True
    pictures: int = 4
    points: int = 750
    searched: int = 5000
    projections: list[Projection] = field(default_factory=lambda: ["tsne", "pca"])

    def __post_init__(self) -> None:
        """Refuse counts that show nothing.

        Raises:
            ConfigError: A count is too small.
        """
        for name, value, least in (
            ("pictures", self.pictures, 1),
            ("points", self.points, 30),
            ("searched", self.searched, 2),
        ):
            if value < least:
                raise ConfigError(f"report.{name}={value} is too small; give at least {least}")
