"""The words of each source of labels, with synonyms: text targets of the embedded head.

A pixel is only ever scored against the words that its own source could have said. During training
a class is spoken for by one of its words, drawn anew at every step, so that "couch" and "settee"
work where the label said "sofa".
"""

from __future__ import annotations


def _table(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(word.strip() for word in line.split("|")) for line in text.strip().splitlines()
    )


COCO133 = _table("""
person | people | man | woman | child | boy | girl | human
bicycle | bike
car | automobile
motorcycle | motorbike
airplane | aeroplane | plane
bus | coach
train | railway train
truck | lorry
boat | ship
traffic light | traffic signal
fire hydrant | hydrant
stop sign | road sign
parking meter
bench | park bench
bird
cat | kitten
dog | puppy
horse | pony
sheep | lamb
cow | cattle
elephant
bear
zebra
giraffe
backpack | rucksack
umbrella | parasol
handbag | purse
tie | necktie
suitcase | luggage
frisbee | flying disc
skis | ski
snowboard
sports ball | ball
kite
baseball bat
baseball glove
skateboard
surfboard
tennis racket
bottle
wine glass
cup | mug | coffee cup
fork
knife
spoon | teaspoon
bowl
banana
apple
sandwich
orange
broccoli
carrot
hot dog
pizza
donut | doughnut
cake
chair | seat
couch | sofa | settee
potted plant | houseplant
bed
dining table | kitchen table
toilet
tv | television | monitor | screen
laptop | notebook computer
mouse | computer mouse
remote | remote control
keyboard | computer keyboard
cell phone | mobile phone | smartphone
microwave
oven | stove
toaster
sink | washbasin
refrigerator | fridge
book
clock
vase
scissors
teddy bear | stuffed toy
hair drier | hair dryer
toothbrush
banner | poster
blanket
bridge
cardboard | cardboard box
counter | countertop
curtain | drapes
door | doorway
wood floor | wooden floor | parquet
flower | flowers
fruit
gravel | pebbles
house | home
light | lamp
mirror
net
pillow | cushion
platform
playingfield | sports field | pitch
railroad | railway tracks
river | stream
road | street
roof | rooftop
sand | beach
sea | ocean
shelf | shelves
snow
stairs | staircase | steps
tent
towel
brick wall
stone wall
tile wall | tiled wall
wood wall | wooden wall
water
window blind | blinds
window | window pane
tree | trees | bush
fence | railing
ceiling
sky | clouds
cabinet | cupboard
table | desk
floor | tiled floor
pavement | sidewalk
mountain | hill
grass | lawn
dirt | earth | soil
paper
food | meal
building | tower | skyscraper
rock | stone
wall | plaster wall
rug | carpet
""")

ADE31 = _table("""
wall
building | house
sky | clouds
floor | flooring
tree | trees
ceiling
road | street
bed
window pane | window
grass | lawn
cabinet | cupboard
sidewalk | pavement
person | people | man | woman
earth | ground | soil
door | doorway
table | desk
mountain | hill
plant | bush
curtain | drapes
chair | seat
car | automobile
water
painting | picture
sofa | couch
shelf | shelves
cottage
sea | ocean
mirror
rug | carpet
field | meadow
armchair
""")

VOC20 = _table("""
aeroplane | airplane | plane
bicycle | bike
bird
boat | ship
bottle
bus | coach
car | automobile
cat | kitten
chair | seat
cow | cattle
dining table | table
dog | puppy
horse | pony
motorbike | motorcycle
person | people | man | woman | pedestrian
potted plant | houseplant
sheep
sofa | couch
train
tv monitor | television | screen
""")

CITY19 = _table("""
road | street
sidewalk | pavement | footpath
building | house
wall
fence | railing
pole | lamp post
traffic light | traffic signal
traffic sign | road sign | sign | sign symbol
vegetation | tree | trees | bushes
terrain | grass
sky
person | pedestrian | people
bicyclist | cyclist | rider
car | automobile
truck | lorry
bus
train | tram
motorcycle | motorbike
bicycle | bike
""")

FACADES = _table("""
facade | building | house front
balcony fence | balcony | balcony railing
car | automobile
fence
non-building infrastructure
shop | shop front
street
traffic infrastructure
vegetation | tree | bushes | plants
window | windows
""")

CLOTHING = _table("""
background
accessories
bag
belt
blazer
blouse
bodysuit
boots
bra
bracelet
cape
cardigan
clogs
coat
dress
earrings
flats | flat shoes
glasses
gloves
hair
hat
heels | high heels
hoodie
intimate
jacket
jeans
jumper
leggings
loafers
necklace
panties
pants | trousers
pumps
purse | handbag
ring
romper
sandals
scarf
shirt
shoes | shoe
shorts
skin | face
skirt
sneakers
socks
stockings
suit
sunglasses
sweater | pullover
sweatshirt
swimwear
t-shirt
tie
tights
top
vest
wallet
watch
wedges
""")

VOCABULARIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "coco133": COCO133,
    "ade31": ADE31,
    "voc21": VOC20,
    "city19": CITY19,
    "facades": FACADES,
    "clothing": CLOTHING,
}
"""Source -> classes in label order -> words. Teachers' ids are shifted past their background."""

FIRST_CLASS = {"ade31": 1, "voc21": 1}
"""Teachers whose id 0 is "background": class k of the vocabulary is their id k + 1. In labels,
background is the class after the last, "something else"."""


def _numbers(text: str) -> dict[str, frozenset[int]]:
    found = {}
    for line in text.strip().splitlines():
        name, listed = line.split(":")
        ends = (part.split("-") for part in listed.split())
        found[name] = frozenset(n for e in ends for n in range(int(e[0]), int(e[-1]) + 1))
    return found


COCO_OF_IMAGENET = _numbers("""
bird: 7-24 80-100 127-146
dog: 151-268
cat: 281-285
bear: 294-297
zebra: 340
horse: 339
cow: 345-346
sheep: 348-349
elephant: 101 385-386
airplane: 404 895
clock: 409 530 892
backpack: 414
stairs: 421
towel: 434
sports ball: 429 430 522 574 722 768 805 852 890
bottle: 440 720 737 898 907
bicycle: 444 671
shelf: 453
tie: 457 906
train: 466 547 705 820 829
car: 436 468 511 609 627 656 661 751 817
boat: 403 472 484 510 554 576 625 628 724 780 814 871 914
cell phone: 487
fence: 489 716 912
cabinet: 493 495 553 894
knife: 499
cup: 504 968
keyboard: 508 878
bed: 520 564
dining table: 532
truck: 555 569 675 717 864 867
chair: 423 559 765 857
wine glass: 572 966
hair drier: 589
remote: 761
laptop: 620 681
light: 619 846
microwave: 651
bus: 654 779 874
bowl: 659 809
tv: 664 851
motorcycle: 665 670
tent: 672
mouse: 673
bench: 703
parking meter: 704
pillow: 721
potted plant: 738
blanket: 750
handbag: 748
tennis racket: 752
refrigerator: 760
skis: 795
door: 799
stone wall: 825
oven: 827
bridge: 821 839 888
couch: 831
curtain: 794 854
teddy bear: 850
roof: 853 858
toaster: 859
toilet: 861
umbrella: 879
vase: 883
sink: 896
window blind: 905
spoon: 618 910
traffic light: 920
book: 921
sandwich: 933
hot dog: 934
broccoli: 937
apple: 948
orange: 950
fruit: 949 951-957
banana: 954
pizza: 963
flower: 985 986
rug: 741
mountain: 970 972 980
sea: 978
house: 425 660
""")
"""COCO name -> the ImageNet classes (0 to 999) whose photos show one."""
COCO_OF_IMAGENET["fruit"] -= COCO_OF_IMAGENET["banana"]
