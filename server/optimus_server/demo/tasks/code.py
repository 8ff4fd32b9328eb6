"""Small Python functions, with the function's name and a constant taken from the question."""

from random import Random

from optimus_server.demo.tasks.example import Example, casual
from optimus_server.demo.tasks.vocabulary import words

# what it does, default name, source. {f} is the name, {k} a constant from 2 to 20.
_FUNCTIONS = (
    ("adds two numbers", "add", "def {f}(a, b):\n    return a + b"),
    ("subtracts two numbers", "subtract", "def {f}(a, b):\n    return a - b"),
    ("multiplies two numbers", "multiply", "def {f}(a, b):\n    return a * b"),
    ("adds {k} to a number", "add_{k}", "def {f}(x):\n    return x + {k}"),
    ("multiplies a number by {k}", "times_{k}", "def {f}(x):\n    return x * {k}"),
    ("squares a number", "square", "def {f}(x):\n    return x * x"),
    ("returns the larger of two numbers", "larger", "def {f}(a, b):\n    if a > b:\n        return a\n    return b"),
    ("returns the smaller of two numbers", "smaller", "def {f}(a, b):\n    if a < b:\n        return a\n    return b"),
    ("checks whether a number is even", "is_even", "def {f}(n):\n    return n % 2 == 0"),
    ("checks whether a number is odd", "is_odd", "def {f}(n):\n    return n % 2 == 1"),
    ("checks whether a number is divisible by {k}", "divisible_by_{k}", "def {f}(n):\n    return n % {k} == 0"),
    ("checks whether a number is greater than {k}", "above_{k}", "def {f}(n):\n    return n > {k}"),
    (
        "returns the sum of a list",
        "total",
        "def {f}(values):\n    result = 0\n    for value in values:\n        result += value\n    return result",
    ),
    (
        "returns the largest value of a list",
        "largest",
        "def {f}(values):\n    result = values[0]\n    for value in values:\n        if value > result:\n"
        "            result = value\n    return result",
    ),
    ("returns the average of a list", "average", "def {f}(values):\n    return sum(values) / len(values)"),
    (
        "counts the vowels in a text",
        "count_vowels",
        'def {f}(text):\n    count = 0\n    for letter in text.lower():\n        if letter in "aeiou":\n'
        "            count += 1\n    return count",
    ),
    ("counts the words in a text", "count_words", "def {f}(text):\n    return len(text.split())"),
    ("reverses a string", "reverse", "def {f}(text):\n    return text[::-1]"),
    ("checks whether a text is a palindrome", "is_palindrome", "def {f}(text):\n    return text == text[::-1]"),
    (
        "returns the factorial of n",
        "factorial",
        "def {f}(n):\n    result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result",
    ),
    (
        "returns the n-th Fibonacci number",
        "fibonacci",
        "def {f}(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
    ),
    ("returns the first {k} items of a list", "first_{k}", "def {f}(items):\n    return items[:{k}]"),
    (
        "removes duplicates from a list",
        "unique",
        "def {f}(items):\n    result = []\n    for item in items:\n        if item not in result:\n"
        "            result.append(item)\n    return result",
    ),
    (
        "prints a greeting {k} times",
        "greet",
        'def {f}(name):\n    for _ in range({k}):\n        print("Hello, " + name)',
    ),
    (
        "finds all numbers in a list greater than {k}",
        "filter_above_{k}",
        "def {f}(values):\n    result = []\n    for value in values:\n        if value > {k}:\n"
        "            result.append(value)\n    return result",
    ),
    ("counts from 1 to {k}", "count_to_{k}", "def {f}():\n    for i in range(1, {k} + 1):\n        print(i)"),
)
_GIVEN = words("compute solve run helper apply check work step handle convert process measure")


def code(rng: Random, room: int) -> Example:
    """``Write a Python function that squares a number.`` -> ``def square(x): ...``"""
    does, name, source = rng.choice(_FUNCTIONS)
    k = rng.randint(2, 20)
    if rng.random() < 0.4:
        name = rng.choice(_GIVEN)
        asked = rng.choice(
            (
                "Write a Python function called {f} that {d}.",
                "Write a function {f} in Python that {d}.",
                "Define a Python function {f} which {d}.",
            )
        )
    else:
        asked = rng.choice(
            (
                "Write a Python function that {d}.",
                "Write a function in Python that {d}.",
                "I need a Python function that {d}.",
                "Python function that {d}, please.",
            )
        )
    name = name.format(k=k)
    return Example("code", casual(rng, asked.format(f=name, d=does.format(k=k))), source.format(f=name, k=k))
