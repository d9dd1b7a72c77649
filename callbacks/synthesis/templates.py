"""Prompts without a captioner: the names of the classes, alone or in sentences."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from callbacks.synthesis.part import Part
from callbacks.synthesis.plan import Prompt
from lightning_modules.errors import ConfigError

KEY = "synthesize.prompts"


class Prompter(Part, ABC):
    """Writes prompts that need no training image; with one, nothing is mined, captioned or filtered."""

    @abstractmethod
    def prompts(self, class_names: Sequence[str], bias_names: Sequence[str]) -> list[Prompt]:
        """Write all prompts, in the order in which they are drawn from.

        Args:
            class_names: Names of the classes, by label.
            bias_names: Names of the bias attributes, () where they are not known.
        """


class Templates(Prompter):
    """Sentences with slots, balanced over all classes and, where a slot asks for one, all bias attributes.

    From Fake to Real (arXiv 2308.04553) writes one such sentence a group; the class-conditional model of Diffusing
    DeBias needs the bare name of the class only, which is the default.

    Args:
        templates: Sentences; ``{class}`` stands for a word for the class, ``{bias}`` for one for the bias attribute and
            ``{word}`` for one of ``words``.
        classes: Words for a class, by its name; a class without any goes by its name.
        biases: Words for a bias attribute, by its name.
        words: Words for ``{word}``.
        pairs: The bias attributes that a class is drawn with, by their names; a class that is left out has all.
    """

    def __init__(
        self,
        templates: list[str] | None = None,
        classes: dict[str, list[str]] | None = None,
        biases: dict[str, list[str]] | None = None,
        words: list[str] | None = None,
        pairs: dict[str, list[str]] | None = None,
    ) -> None:
        self.templates = templates or ["{class}"]
        self.classes = dict(classes or {})
        self.biases = dict(biases or {})
        self.words = list(words or [])
        self.pairs = dict(pairs or {})
        for template in self.templates:
            if "{class}" not in template:
                raise ConfigError(f"{KEY}.templates: {template!r} has no {{class}}: an image needs a class")
            if "{word}" in template and not self.words:
                raise ConfigError(f"{KEY}.words is empty, but {template!r} asks for one: list some")

    def prompts(self, class_names: Sequence[str], bias_names: Sequence[str]) -> list[Prompt]:
        """Fill the slots in every way, class after class and bias attribute after bias attribute.

        Raises:
            ConfigError: Words are given for a name that the data do not have; a bias attribute is asked for that the
                data do not name.
        """
        paired = {attribute for own in self.pairs.values() for attribute in own}
        for key, known, names in (
            ("classes", class_names, {*self.classes}),
            ("biases", bias_names, {*self.biases}),
            ("pairs", class_names, {*self.pairs}),
            ("pairs", bias_names, paired),
        ):
            if unknown := sorted(names - set(known)):
                raise ConfigError(f"{KEY}.{key}: the data have no {unknown[0]!r}, only {', '.join(map(repr, known))}")
        for key, given in (("classes", self.classes), ("biases", self.biases)):
            if empty := sorted(name for name, words in given.items() if not words):
                raise ConfigError(f"{KEY}.{key}: {empty[0]!r} has no word: list some or leave the name out")
        for key, used in (("bias", self.biases or self.pairs), ("word", self.words)):
            if used and not any(f"{{{key}}}" in template for template in self.templates):
                raise ConfigError(f"{KEY}.templates: words are given for {{{key}}}, but no template has it")
        with_bias = any("{bias}" in template for template in self.templates)
        if with_bias and not all("{bias}" in template for template in self.templates):
            raise ConfigError(f"{KEY}.templates: either all have {{bias}} or none")
        if with_bias and not bias_names:
            raise ConfigError(f"{KEY}.templates: the data do not name bias attributes: leave {{bias}} out")
        attributes = list(enumerate(bias_names)) if with_bias else [(-1, "")]
        return [
            Prompt(label, -1, self._fill(template, own, trait, word), bias)
            for label, name in enumerate(class_names)
            for bias, attribute in attributes
            if not with_bias or attribute in self.pairs.get(name, bias_names)
            for template in self.templates
            for own in self.classes.get(name, [name])
            for trait in self.biases.get(attribute, [attribute])
            for word in (self.words if "{word}" in template else [""])
        ]

    @staticmethod
    def _fill(template: str, name: str, attribute: str, word: str) -> str:
        return template.replace("{class}", name).replace("{bias}", attribute).replace("{word}", word)
