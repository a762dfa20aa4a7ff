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
