"""What looking at every picture of miniworld's classes decided, and which classes and domains those are."""

import re

# miniworld's classes: of those with at least nine designs in most domains, the ones that overlap least. Bears, cats and
# cows are left out: as emoji they are faces, which differ from a dog's by their ears.
CLASSES = (
    *("bird", "boat", "book", "car", "dog", "fish", "flower", "horse", "house", "person", "shoe", "train", "tree"),
    "umbrella",
)
DOMAINS = ("photo", "shaded", "flat", "cartoon", "line", "silhouette")

# These two monochrome sets are drawn in outline as often as filled: neither silhouettes nor lines.
NOT_SILHOUETTES = ("fluent-emoji-high-contrast", "emojione-monotone")

# Pictures the index gives no class, or another one (a penguin is a bird here). A picture is named `source:file stem`.
ADDED = {
    picture: label
    for label, pictures in {
        "bird": "gcompris-photos:heron gcompris-photos:kingfisher gcompris-photos:northern_harrier "
        "gcompris-photos:owl gcompris-photos:penguin gcompris-photos:scarlet_macaw "
        "gcompris-photos:spoonbills tuxpaint-stamps:heron_greatblue "
        "tuxpaint-stamps:heron_greatblue_flying tuxpaint-stamps:pelican",
    }.items()
    for picture in pictures.split()
}

# The only people kept: whole figures, and each photographed person in one of the two splits only.
PEOPLE = """
    scratch:amon1 scratch:anjuli-1 scratch:anjuli-3 scratch:anna-1 scratch:breakdancer1
    scratch:calvrett scratch:calvrett-jumping scratch:cassy-jumping-2 scratch:cassy-sitting-1
    scratch:chamak1 scratch:chamak2 scratch:dan3 scratch:ed scratch:football-run scratch:jay
    scratch:jodi1 scratch:lee-fan scratch:mako-screaming scratch:marissa scratch:nathan
    scratch:nina1 scratch:paul1 scratch:referee1 scratch:ribbon-dancer scratch:sam
    scratch:thai-dancer
    emojione-v1:person-running emojione-v1:person-walking emojione-v1:woman-dancing
    noto-v1:man-dancing noto-v1:person-running noto-v1:person-walking noto-v1:woman-dancing
    noto-v1:woman-running noto-v1:woman-walking noto:man-dancing noto:person-running
    noto:person-standing noto:person-walking noto:woman-dancing noto:woman-standing
    emojione:man-dancing emojione:person-running emojione:person-walking emojione:woman-dancing
    fluent-emoji-flat:man-dancing fluent-emoji-flat:person-running fluent-emoji-flat:person-standing
    fluent-emoji-flat:person-walking fluent-emoji-flat:woman-dancing fxemoji:walking
    glyphs-poly:child glyphs-poly:female glyphs-poly:male glyphs-poly:walking
    twemoji:man-dancing twemoji:person-running twemoji:person-standing twemoji:person-walking
    twemoji:woman-dancing
    gcompris-words:girl icon-park:boy icon-park:girl openmoji-color:man-dancing
    openmoji-color:person-running openmoji-color:person-standing openmoji-color:person-walking
    openmoji-color:woman-dancing scratch:ballerina-d scratch:boy1-standing scratch:boy2 scratch:boy3
    scratch:boy4-laughing scratch:boycurly scratch:boyshorts scratch:breakdancer-1
    scratch:breakdancer-3 scratch:diver1 scratch:girl1-walking scratch:girl2-standing
    scratch:girl3-basketball scratch:girl4-standing scratch:girl5 scratch:prince1 scratch:prince2
    scratch:princess1 scratch:singer1 scratch:womanbun scratch:womanwaving
    streamline-cyber-color:female streamline-cyber-color:male
    hugeicons:man hugeicons:person-standing hugeicons:walking hugeicons:woman icon-park-outline:boy
    icon-park-outline:girl iconoir:walking la:child la:female la:male la:walking
    lucide:person-standing openmoji-black:1F3C3-200D-2642-FE0F openmoji-black:1F483
    openmoji-black:1F57A openmoji-black:1F6B6 openmoji-black:1F9CD ph:person symbola:128131
    symbola:128378 tabler:man tabler:woman
    fa7-solid:child fa7-solid:female fa7-solid:male fa7-solid:person-running
    fa7-solid:person-walking game-icons:person healthicons:man healthicons:old-man
    healthicons:walking healthicons:woman icon-park-solid:boy
    icon-park-solid:girl mdi:human mdi:human-female mdi:human-greeting mdi:human-male ph:person-fill
    pinhead:person-running pinhead:person-standing pinhead:person-walking roentgen:human
    tabler:man-filled tabler:woman-filled
"""

# What else was thrown out, by reason.
DROP: dict[str, str] = {
    "badge": """
        tabler:rosette tabler:rosette-filled""",
    "bison": """
        fluent-emoji-flat:bison game-icons:bison game-icons:buffalo-head gcompris-photos:bison
        noto-emoji-mono:129452 noto:bison openmoji-black:1F9AC openmoji-color:bison pinhead:bison twemoji:bison""",
    "blank": """
        iconoir:home mingcute:home-1-fill mingcute:home-1-line""",
    "blurred": """
        gcompris-photos:fish5""",
    "crop": """
        game-icons:parrot-head game-icons:sniffing-dog openmoji-black:1F6A2 openmoji-black:26F4""",
    "crowded": """
        game-icons:jumping-dog gcompris-photos:fish10 gcompris-photos:fish11 gcompris-photos:fish7""",
    "duplicate": """
        fa7-solid:automobile fa7-solid:house fluent-emoji-flat:guide-dog hugeicons:police-car mdi:car-side
        noto-v1:bird noto-v1:dove openmoji-black:1F415-200D-1F9BA openmoji-black:1F693 openmoji-black:1F695
        openmoji-black:E009 openmoji-color:pigeon openmoji-color:police-car openmoji-color:ship
        tabler:flower-filled temaki:sailboat twemoji:guide-dog""",
    "hand": """
        game-icons:palm icon-park-outline:palm icon-park-solid:palm icon-park:palm""",
    "igloo": """
        fa7-solid:igloo game-icons:igloo gcompris-photos:igloo la:igloo lucide-lab:igloo""",
    "koala": """
        emojione-v1:koala emojione:koala fluent-emoji-flat:koala fxemoji:koala game-icons:koala
        gcompris-photos:koala mdi:koala noto-emoji-mono:128040 noto-v1:koala noto:koala openmoji-black:1F428
        openmoji-color:koala streamline-emojis:koala symbola:128040 twemoji:koala whh:koala""",
    "logo": """
        flat-color-icons:steam la:steam mdi:steam mingcute:steam-fill mingcute:steam-line whh:steam""",
    "mislabelled": """
        fa7-solid:tram game-icons:steam game-icons:swallow gcompris-photos:red_panda hugeicons:toy-train
        icon-park-outline:lark icon-park:lark mdi:train-car picon:tree roentgen:taxi""",
    "odd": """
        fa7-solid:lotus game-icons:horse-head game-icons:lotus-flower game-icons:pegasus
        game-icons:vanilla-flower glyphs-poly:canoe hugeicons:cottage la:kiwi-bird lucide-lab:houses
        mdi:book-open mdi:book-open-outline mdi:horse-variant-fast picon:puppy picon:steam pinhead:bullet-train
        reicon:home reicon:home-3 streamline-cyber-color:sneakers tabler:steam""",
    "outline": """
        icon-park-solid:swallow icon-park:sailing icon-park:swallow icon-park:tree""",
    "pose": """
        scratch:cat1-a scratch:cat5 scratch:dog1-b scratch:dog2-b scratch:dog2-c scratch:fish1-b
        scratch:parrot1-b""",
    "recoloured": """
        emojione-v1:green-book emojione-v1:notebook emojione-v1:orange-book emojione:closed-book
        emojione:green-book emojione:orange-book fluent-emoji-flat:closed-book fluent-emoji-flat:green-book
        fluent-emoji-flat:grinning-cat fluent-emoji-flat:orange-book noto-v1:green-book noto-v1:orange-book
        noto:closed-book noto:green-book noto:orange-book openmoji-black:1F408-200D-2B1B openmoji-black:1F4D8
        openmoji-black:1F4D9 openmoji-color:green-book openmoji-color:orange-book twemoji:closed-book
        twemoji:green-book twemoji:orange-book""",
    "rider": """
        emojione-v1:horse-racing emojione:horse-racing emojione:speedboat fluent-emoji-flat:horse-racing
        fxemoji:rowboat game-icons:canoe game-icons:cavalry maki:horse-riding noto-emoji-mono:127943
        noto-v1:horse-racing noto:horse-racing openmoji-black:1F3C7 openmoji-black:E184
        openmoji-color:horse-racing openmoji-color:horse-riding symbola:127943 symbola:128676 temaki:canoe
        twemoji:horse-racing""",
    "solid": """
        symbola:127746 symbola:127794 symbola:127796 symbola:127799 symbola:127801 symbola:127802 symbola:127876
        symbola:127960 symbola:127962 symbola:128741 symbola:128755 symbola:9730 symbola:9748 symbola:9972""",
    "symbol": """
        hugeicons:fish-symbol lucide:fish-symbol ph:fish-simple ph:fish-simple-fill""",
    "toy": """
        game-icons:trojan-horse""",
    "village": """
        game-icons:village healthicons:village maki:village""",
    "weapon": """
        game-icons:jeep""",
}


def key(row: dict) -> str:
    """The short name of a picture: its source and the stem of its file."""
    return row["source"] + ":" + re.split(r"[/:]", row["origin"])[-1].rsplit(".", 1)[0]


def named(row: dict) -> str:
    """The class of a row: the index's, or what a review found; "" where it has none."""
    return ADDED.get(key(row), row["class"])


def shown(row: dict) -> bool:
    """Whether a picture may be in miniworld, as far as class, domain, source and review go."""
    name, label = key(row), named(row)
    if label not in CLASSES or row["domain"] not in DOMAINS or any(name in keys.split() for keys in DROP.values()):
        return False
    if row["source"] == "tuxpaint-stamps" and name not in ADDED:
        return False  # GPL, but for those that carry a licence of their own
    if row["domain"] == "silhouette" and row["source"] in NOT_SILHOUETTES:
        return False
    return label != "person" or name in PEOPLE.split()
