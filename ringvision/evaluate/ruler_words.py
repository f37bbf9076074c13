"""Words that RULER's tasks are made of: names "quiet-harbour", plain words, and coded ones.

RULER draws them from word lists of other packages; these are our own, so nothing is fetched.
"""

import string
import uuid

import numpy as np

_ADJECTIVES = """
able amber ancient autumn bold brave brief bright brisk broad calm careful cheerful clear clever cloudy cold
copper cosy crisp curious daily damp deep distant dusty eager early eastern empty even faint fair famous
fast fierce fine firm flat fond fresh frosty gentle giant glad golden grand great handy happy hasty heavy
hidden hollow honest humble icy jolly keen kind large late lazy light lively local lonely loose loud lucky
marble merry mild misty modern narrow neat noble northern odd old open orderly painted pale patient plain
polite proud quick quiet rainy rapid rare ready rich ripe rough round rural rusty sandy secret sharp shiny
short silent silver simple sleepy slow small smooth snowy soft solid southern spare spotted spring stark
steady steep stern still stormy strange strong sturdy sunny sweet swift tall tame tender thick thin tidy
tiny tired tough upper urban vast velvet warm wary western wide wild windy winter wise wooden woolly young
"""
ADJECTIVES = tuple(_ADJECTIVES.split())
_NOUNS = """
acorn anchor apple arrow atlas autumn badge bakery balcony barn barrel basin beacon beetle bell bench berry
blanket boat book border bottle branch bread bridge broom bucket button cabin cactus camel candle canoe
canyon carrot castle cellar chain chair chalk cherry chimney circle cliff cloak cloud clover coast cobweb
comb comet compass copper corner cotton cradle crane cricket crown curtain daisy dam desert desk diary door
dragon drawer drum eagle engine falcon farmer feather fence fern ferry fiddle field flag flute forest fork
fountain fox garden garlic gate ginger glacier glove goat grape gravel hammer harbour harvest hedge helmet
heron hill hinge honey hook horn island ivy jacket jar jewel kettle key kitchen kite ladder lake lantern
leaf lemon letter lighthouse lion lizard lock maple market meadow melon mill mirror mitten moth mountain mug
needle nest notebook oar oasis olive onion orchard otter oven owl paddle palace panda paper parrot path
peach pebble pencil pepper pigeon pillow pine pirate planet plate pocket pond poppy potato pumpkin puzzle
quilt rabbit radish raft rain raven ribbon river robin rocket roof root rope rose saddle sail salmon salt
scarf school shell shovel signal sparrow spider spoon spruce stable stone stove stream sugar swan table
teapot tent thimble thistle thread tiger timber tower tractor trail train tulip tunnel turtle valley vase
village vine wagon wallet walnut water weaver whale wheat wheel whistle willow window wolf yard zebra
"""
NOUNS = tuple(_NOUNS.split())
PLAIN = tuple(sorted({*ADJECTIVES, *NOUNS}))


def name(random: np.random.Generator) -> str:
    """Such as "quiet-harbour"."""
    return f"{random.choice(ADJECTIVES)}-{random.choice(NOUNS)}"


def number(random: np.random.Generator) -> str:
    """Of seven digits."""
    return str(random.integers(10**6, 10**7))


def identifier(random: np.random.Generator) -> str:
    """A UUID of version 4."""
    return str(uuid.UUID(bytes=random.bytes(16), version=4))


def variable(random: np.random.Generator) -> str:
    """Five capital letters."""
    return "".join(random.choice(list(string.ascii_uppercase), 5))


def coded(random: np.random.Generator, count: int) -> list[str]:
    """So many different words of six letters that mean nothing."""
    found = dict[str, None]()
    while len(found) < count:
        letters = random.choice(list(string.ascii_lowercase), (count - len(found), 6))
        found.update(dict.fromkeys("".join(word) for word in letters))
    return list(found)


def different(random: np.random.Generator, count: int) -> list[str]:
    """So many different words of one kind, so that none of them stands inside another by chance more often
    than words do: plain ones, or, where they are too few, pairs written as one, or else coded ones.
    """
    if count <= len(PLAIN):
        return [str(word) for word in random.permutation(PLAIN)[:count]]
    if count > len(ADJECTIVES) * len(NOUNS):
        return coded(random, count)
    chosen = random.permutation(len(ADJECTIVES) * len(NOUNS))[:count]
    return [ADJECTIVES[index // len(NOUNS)] + NOUNS[index % len(NOUNS)] for index in chosen]
