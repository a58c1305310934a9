"""Six check words: a key's hash in a form that two people can read to each other over the telephone.

Promise: equal bytes give equal words; words of different keys agree by chance once in 2^48. The list is our own: 256
common words whose first four letters are all different, in alphabetical order; word i stands for byte value i.
"""

from fedveil_common.crypto.labels import h

WORDS = tuple(
    """
    acid acorn actor agent alarm album alley alloy amber angle ankle apple apron arena armor arrow atlas attic bacon
    badge baker bamboo banjo barrel basil basket beach beaver berry bishop blanket blossom boat bonus bottle branch
    bridge bronze bubble bucket butter cabin cactus camel candle canoe canyon carbon cargo carpet castle cedar
    cellar cereal chalk cherry chess cinema circle clover cobalt coffee comet copper coral cotton cousin crater
    cricket crystal cube curtain cycle daisy dancer delta denim desert diamond dinner doctor dolphin donkey dragon
    drawer drum eagle easel echo elbow ember engine envelope falcon farmer feather fennel fiddle finger flame flute
    forest fossil fox galaxy garden garlic gecko ginger giraffe glacier glove goblet goose grape gravel guitar
    hammer harbor harvest hazel helmet heron hobby honey hotel husky iceberg igloo indigo insect island ivory jacket
    jaguar jelly jewel jigsaw jungle kayak kettle kitten ladder lagoon lantern lava lemon library lily lizard
    lobster lotus magnet mango maple marble meadow melon meteor mirror monkey mosaic muffin museum napkin nectar
    needle nickel noodle nutmeg oasis ocean olive onion opera orbit orchid otter oyster paddle palace panda paper
    parrot pebble pencil pepper piano pickle pigeon pillow pirate planet plaza pocket poem polar pony poplar potato
    prism puzzle pyramid quartz quilt rabbit radar radish raven ribbon river robin rocket ruby saddle safari salmon
    sandal saturn scarf school shadow shelter silver sketch spider spoon statue sugar summit sunset tango teapot
    temple tiger timber tomato trumpet tulip tunnel turtle umbrella valley velvet violin volcano wagon walnut walrus
    willow window winter wizard yogurt zebra zephyr
    """.split()  # noqa: SIM905 - a list of 256 literals reads worse
)

COUNT = 6
"""Check words of one value."""


def check_words(data: bytes) -> str:
    """The words of `data` (a public key, a request, a roster hash), separated by spaces."""
    return " ".join(WORDS[byte] for byte in h("words", data)[:COUNT])
