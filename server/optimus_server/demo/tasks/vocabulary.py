"""The words that tasks share. They are few on purpose: the tokenizer has 1,024 entries for all of them."""


def words(text: str) -> tuple[str, ...]:
    """``"a b c"`` -> ``("a", "b", "c")``"""
    return tuple(text.split())


NAMES = words("Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Kate Leo Maria Nina Oscar Paula Rosa Sam Tom Vera")

CITIES = words(
    "Berlin Paris London Rome Madrid Vienna Oslo Lisbon Prague Dublin Athens Warsaw Tokyo Boston Chicago Toronto"
)

JOBS = words("teacher doctor baker pilot farmer nurse painter writer driver singer engineer lawyer")

FOODS = words("apple pear plum lemon orange banana cherry grape melon peach carrot onion potato tomato bread cheese")

WORDS = (
    *FOODS,
    *words(
        "book chair table lamp door window garden river stone tree flower bird horse tiger lion bear wolf fox "
        "rabbit mouse cat dog fish boat train car road bridge house tower castle forest island ocean cloud rain "
        "snow wind fire moon star sun hand paper pencil music dance dream light water gold silver iron glass wood "
        "sugar salt honey coffee milk clock bottle"
    ),
)

COUNTED = words("apples pears books pens coins stamps cards marbles eggs shells cookies balls stickers candles")

ANIMALS = words("fox bear wolf rabbit mouse cat dog owl horse duck frog lion turtle hedgehog squirrel goat")

DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

MONTHS = words("January February March April May June July August September October November December")

MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

OFF_TOPIC = words(
    "computer telephone football history politics religion money marriage school university law court war army "
    "planet gravity electron atom chemistry biology medicine hospital cancer vitamin virus dentist cinema theatre "
    "opera guitar piano king queen empire president election party tax bank stock market bitcoin insurance job "
    "salary holiday hotel airport passport visa beach mountain desert volcano earthquake weather climate energy "
    "battery engine bicycle airplane rocket satellite internet website email password keyboard printer robot "
    "camera television radio newspaper novel poet painter sculpture museum temple church philosophy happiness "
    "love friendship fear anger memory dream sleep exercise diet recipe pizza pasta chicken soup cake wine beer "
    "tea cotton fashion shoe perfume wedding birthday baby child teenager grandmother dinosaur dragon unicorn "
    "elephant shark whale spider mosquito bee tulip oak mushroom diamond oil plastic concrete skyscraper tunnel"
)
