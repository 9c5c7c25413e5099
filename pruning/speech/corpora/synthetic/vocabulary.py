"""The words of the synthetic corpus, by class.

Classes contain no homophones (and there are few across classes), because a pair such as FLOUR and FLOWER would measure
luck. Near-homophones such as GOAT and BOAT, THIRTEEN and THIRTY are wanted: they require acoustic evidence.
"""

from __future__ import annotations

NAMES = """adam alice amy anna arthur barbara ben bruno carla carol clara daisy daniel david diana edith edward ellen
emma felix fiona frank george grace hannah harold helen henry irene isaac jacob james jane janet jason julia karen
kevin laura leo linda lucas martha martin mary mason megan michael monica nancy nathan nora oliver oscar paula peter
ralph rebecca robert rosa ruby samuel sarah simon sophie stella steven susan teresa thomas victor violet walter"""

PROFESSIONS = """actor artist baker banker barber butcher captain carpenter clerk coach cook dancer dentist doctor
driver drummer editor engineer farmer fisherman gardener guard hunter janitor judge lawyer librarian mechanic merchant
miner nurse officer painter pilot player plumber poet preacher printer professor queen ranger sailor scientist
sculptor sheriff singer soldier student surgeon tailor teacher trader waiter weaver writer"""

ANIMALS = """badger bat beaver beetle bull camel cat cow crab crow dog donkey dove duck eagle falcon fox frog goat
goose hamster hawk hen heron lamb lion lizard monkey moth mouse otter owl parrot pig pigeon pony rabbit rat raven
robin salmon seal shark sheep snake spider squirrel swan tiger turkey turtle wasp whale wolf"""

OBJECTS = """anchor apron arrow axe bag ball banner barrel basket bench bicycle blanket boat book bottle bowl box
bracelet brick bridge broom brush bucket button cabinet camera candle canvas card carpet chain chair chest clock coat
coin column compass cradle crown cup curtain diamond dish drum engine envelope fence fiddle flag flute fork fountain
frame gate glass glove guitar hammer harp hat helmet jacket jar kettle key knife ladder lamp lantern ledger lens
letter lock magnet map mask medal mirror motor needle net notebook oven paddle package pan paper parcel pencil piano
picture pillow pipe pitcher plate pocket poster pump purse puzzle radio ribbon ring rocket rope saddle scarf shelf
shield ship shirt shoe shovel spoon statue stove suitcase sword table telescope tent ticket towel tractor trumpet
tunnel umbrella vase violin wagon wallet watch wheel whistle window wrench"""

FOODS = """apple bacon banana barley bean bread broth butter cabbage cake candy carrot cheese cherry chicken chocolate
coffee corn cream cucumber garlic ginger grape honey jam lemon lettuce melon milk mushroom mustard noodle nut olive
onion orange pancake pasta peach pepper pickle plum potato pumpkin radish rice salad sauce sausage soup spinach sugar
toast tomato turnip vinegar walnut yogurt"""

ADJECTIVES = """ancient angry big bitter brave bright broken calm careful cheap clean clever cold cozy crooked curious
damp dark deep dirty dry dull dusty eager early empty expensive famous flat fragile fresh friendly gentle giant golden
grumpy happy harsh heavy hidden hollow honest hot huge humble hungry icy jealous jolly lazy little lonely long loud
lucky mad modern muddy narrow nervous new noisy odd old patient plain polite proud quick quiet rare rich rough round
rusty sad sharp shiny short shy silent silver simple sleepy slim slow small smooth soft solid sour special square
steep sticky stiff strange strong stubborn sudden tall tame thick thin tidy tiny tired tough ugly useful warm weary
wet wide wild wise wooden yellow young"""

VERBS = """admired balanced borrowed bought broke brought built buried called carried caught chased checked cleaned
collected copied counted covered delivered described designed destroyed discovered divided dragged drew dropped
emptied examined filled finished followed forgot found gathered guarded heard helped hid ignored imagined inspected
kept kicked lifted liked located lost loved measured mended mentioned missed moved noticed offered opened ordered
packed photographed picked placed polished praised prepared printed promised protected pulled pushed raised received
remembered removed repaired replaced rescued returned saved searched selected shared showed signed sketched sold
studied tested threw touched traded trusted turned used visited wanted warned washed watched weighed wrapped"""

PLACES = """airport attic bakery balcony barn basement bay beach cabin camp canyon castle cave cellar chapel church
circus city clinic college cottage court desert dock factory farm field forest fort garage garden gym hall harbor hill
hospital hotel island jungle kitchen lake library lobby market meadow mill mine mountain museum office palace park
pasture pier pond port prairie prison quarry restaurant river school shop square stable stadium station street studio
swamp temple theater tower town valley village warehouse yard zoo"""

CITIES = """athens austin berlin boston cairo chicago dallas denver dublin geneva glasgow hamburg havana houston
lisbon london madrid memphis miami milan moscow nairobi oslo oxford paris phoenix portland prague quebec rome seattle
sydney tokyo toronto venice vienna warsaw zurich"""

ADVERBS = """again almost badly barely boldly bravely calmly carefully clearly early easily finally gladly gently
hardly happily neatly nearly often openly politely proudly quickly quietly rarely sadly safely secretly seldom simply
slowly softly soon suddenly surely swiftly truly twice usually warmly"""

TIMES = """monday tuesday wednesday thursday friday saturday sunday january february march april june july august
september october november december today tonight tomorrow yesterday"""

COLORS = "black blue brown crimson gray green orange pink purple red scarlet white yellow"
DIGITS = "one two three four five six seven eight nine"
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"

CLASSES: dict[str, tuple[str, ...]] = {
    name: tuple(sorted(set(words.split())))
    for name, words in {
        "NAME": NAMES,
        "PROFESSION": PROFESSIONS,
        "ANIMAL": ANIMALS,
        "OBJECT": OBJECTS,
        "FOOD": FOODS,
        "ADJECTIVE": ADJECTIVES,
        "VERB": VERBS,
        "PLACE": PLACES,
        "CITY": CITIES,
        "ADVERB": ADVERBS,
        "TIME": TIMES,
        "COLOR": COLORS,
    }.items()
}
"""Filler classes of the templates; the classes that form numbers are separate, since they are never reduced."""

TEMPLATES: tuple[str, ...] = (
    "the ADJECTIVE PROFESSION VERB the COLOR OBJECT in the PLACE",
    "NAME VERB NUMBER ADJECTIVE OBJECT+ near the PLACE",
    "NAME and NAME VERB the ADJECTIVE ANIMAL behind the PLACE",
    "on TIME the PROFESSION VERB a ADJECTIVE OBJECT from CITY",
    "the PROFESSION from CITY ADVERB VERB NUMBER OBJECT+",
    "a ADJECTIVE ANIMAL and a COLOR ANIMAL were in the PLACE",
    "NUMBER ADJECTIVE ANIMAL+ ADVERB VERB the FOOD",
    "please bring NUMBER OBJECT+ and the FOOD from the PLACE",
    "did the PROFESSION ADVERB mention NUMBER COLOR OBJECT+",
    "NAME never VERB the OBJECT under the ADJECTIVE OBJECT",
    "my ADJECTIVE PROFESSION VERB FOOD and FOOD in CITY",
    "why was the ADJECTIVE OBJECT beside the ADJECTIVE ANIMAL",
    "the OBJECT and the OBJECT cost NUMBER dollars in CITY",
    "NAME VERB a OBJECT before NAME VERB the FOOD",
    "every PROFESSION in the PLACE VERB a ADJECTIVE OBJECT",
    "CITY is NUMBER miles from the ADJECTIVE PLACE",
    "NAME will meet the PROFESSION at the PLACE on TIME",
    "there are NUMBER COLOR OBJECT+ inside the ADJECTIVE PLACE",
    "our ANIMAL ADVERB VERB the ADJECTIVE PROFESSION",
    "put the FOOD and the COLOR OBJECT behind the ADJECTIVE OBJECT",
    "page NUMBER says that NAME VERB the ANIMAL",
    "NAME wrote about a ADJECTIVE PLACE and NUMBER ANIMAL+",
    "when NAME VERB the OBJECT the ADJECTIVE ANIMAL was in CITY",
    "the number is NUMBER NUMBER and the color is COLOR",
    "only the ADJECTIVE PROFESSION VERB the FOOD on TIME",
    "NAME NAME and the PROFESSION VERB NUMBER OBJECT+",
    "no ADJECTIVE OBJECT was ADVERB VERB by the PROFESSION",
    "his OBJECT and her ADJECTIVE OBJECT are near the PLACE in CITY",
    "after TIME NAME ADVERB VERB the COLOR ANIMAL",
    "seldom has a ADJECTIVE PROFESSION VERB such a ADJECTIVE PLACE",
)
"""Sentence templates: a word in capitals is drawn from its class, ``+`` makes a plural, ``a`` may become ``an``."""
