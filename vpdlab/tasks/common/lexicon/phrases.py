"""Phrases for each operation, in five registers, and one slang phrase each.

Every phrase is an imperative in lower case that fits after "you have to". Phrases are separated by " / ". One of each
register is held out and has a "*" (`phrases(kind, "unseen")`): it says its operation in the manner of the others.
"""

from __future__ import annotations

from typing import Literal

Share = Literal["known", "unseen", "all"]
"""Which phrases or frames: those of training, those held out, or both."""

SHARES: tuple[Share, Share] = ("known", "unseen")
REGISTERS = ("plain", "school", "terse", "spoken", "formal")

WRITTEN: dict[str, tuple[str, str, str, str, str]] = {
    "mirror": (
        "reverse the digits / write the digits backwards / turn the whole number around"
        " / go from the last digit to the first / *put the digits in reverse order",
        "read the number from right to left and write it down / copy the digits, starting with the last one"
        " / hold the number up to a mirror / start at the end and walk back to the front"
        " / *spell the number backwards, digit by digit",
        "reverse all / go backwards / mirror it / turn it around / *run it in reverse",
        "just read it back to front / simply say the whole thing backwards / take the lot and turn it end for end"
        " / *turn the thing around, last digit first / write it the wrong way round",
        "invert the order of the four digits / list the digits from last to first"
        " / present the digits in the opposite order / output the digits in reversed sequence"
        " / *reproduce the sequence in reverse",
    ),
    "keep": (
        "keep the digits as they are / leave all digits unchanged / change nothing / *copy the digits as given"
        " / write the same digits again",
        "copy the number into your answer without a change / write down just what you were given"
        " / *carry the number over to the next line as it is / leave every digit in its seat"
        " / repeat the number exactly as it was",
        "leave it / keep all / do nothing / copy as is / *leave all alone",
        "*just leave the thing alone / simply hand the number back / do not touch a single digit / let it be"
        " / hold on to what you have got",
        "retain all four digits in their present order / *preserve the sequence without alteration"
        " / return the input unchanged / make no alteration to the digits / reproduce the sequence as received",
    ),
    "rising": (
        "put the digits in rising order / sort the digits from small to large"
        " / begin with the smallest digit and go up / line the digits up by size, lowest first"
        " / *order the digits from lowest to highest",
        "write the smallest digit first and the largest last, with the others in order between"
        " / *arrange the digits like stairs going up / write the digits in counting order"
        " / look for the smallest digit, then for the next larger one, until none is left"
        " / line the digits up like children, shortest in front",
        "sort up / sort ascending / *go small to large / order low to high / put smallest first and climb",
        "just sort them so they go up / *simply start low and end high"
        " / take the little ones first and the big ones after / get them climbing from left to right"
        " / let them grow from left to right",
        "arrange the digits in ascending order / rank the digits from the least to the greatest"
        " / *sort the sequence in increasing order / place the digits by increasing value"
        " / order the digits so that none is smaller than the one before",
    ),
    "falling": (
        "put the digits in falling order / sort the digits from large to small"
        " / begin with the largest digit and go down / line the digits up by size, highest first"
        " / *order the digits from highest to lowest",
        "write the largest digit first and the smallest last, with the others in order between"
        " / *arrange the digits like stairs going down / write the digits in the order of counting down"
        " / look for the largest digit, then for the next smaller one, until none is left"
        " / line the digits up like children, tallest in front",
        "sort down / sort descending / *go large to small / order high to low / put largest first and descend",
        "just sort them so they go down / *simply start high and end low"
        " / take the big ones first and the little ones after / get them sinking from left to right"
        " / let them shrink from left to right",
        "arrange the digits in descending order / rank the digits from the greatest to the least"
        " / *sort the sequence in decreasing order / place the digits by decreasing value"
        " / order the digits so that none is larger than the one before",
    ),
    "plus": (
        "add one to each digit / make each digit higher by one / count each digit one up / raise every digit by one"
        " / *move every digit one step up",
        "count on by one from each digit / replace each digit by the one that comes after it in counting"
        " / write the next number after each digit / give each digit one more"
        " / *take one step up the number line from each digit",
        "add one to all / go one up everywhere / put one on each / *up all by one / lift each by one",
        "just give every digit one extra / simply make all of them one bigger / push each one up a notch"
        " / *nudge every digit up by one / let each digit gain one",
        "increase each digit by one / increment every digit / replace every digit by its successor"
        " / *raise each of the four digits by one unit / augment every digit by one",
    ),
    "minus": (
        "subtract one from each digit / make each digit lower by one / count each digit one down"
        " / lower every digit by one / *move every digit one step down",
        "count back by one from each digit / replace each digit by the one that comes before it in counting"
        " / write the number just before each digit / give each digit one less"
        " / *take one step down the number line from each digit",
        "take one from all / go one down everywhere / drop one from each / *down all by one / sink each by one",
        "just knock one off every digit / simply make all of them one smaller / pull each one down a notch"
        " / *nudge every digit down by one / let each digit lose one",
        "decrease each digit by one / decrement every digit / replace every digit by its predecessor"
        " / *lower each of the four digits by one unit / diminish every digit by one",
    ),
    "double": (
        "double each digit / take each digit twice / multiply every digit by two / add each digit to itself"
        " / *make every digit twice as large",
        "work out two times each digit / use the table of twos on each digit"
        " / add to each digit the same digit again / write the double of each digit / *count every digit double",
        "double all / take all twice / *multiply all by two / do all times two / make each twofold",
        "just make every digit double / simply give each digit its own value again / *take each one two times over"
        " / blow each digit up to twice its size / let each digit count for two of itself",
        "multiply each of the four digits by two / scale every digit by a factor of two"
        " / replace each digit by its double / *compute twice the value of each digit"
        " / replace every digit by the sum of itself and itself",
    ),
    "half": (
        "halve each digit / take half of each digit / divide every digit by two / cut each digit in half"
        " / *make every digit half as large",
        "share each digit between two and drop what is left over / *work out half of each digit, rounding down"
        " / find the half of each digit / ask how many twos fit into each digit"
        " / split each digit into two equal parts and write one of them",
        "halve all / take half of all / divide all by two / cut all in half / *go half on each",
        "just take each digit down to half / simply chop every digit in two and keep one piece"
        " / let each digit shrink to half its size / throw half of each digit away"
        " / *make do with half of each digit",
        "divide each of the four digits by two, rounding down / scale every digit by a factor of one half"
        " / replace each digit by its half / compute half the value of each digit"
        " / *reduce each digit to half of its value",
    ),
    "left": (
        "rotate the digits to the left / move the first digit to the end / send the first digit to the back"
        " / *shift all digits one place to the left, the first going to the end"
        " / take the first digit away and put it behind the last",
        "let the digit in front walk to the end of the line / start with the second digit and write the first one last"
        " / *move each digit one seat to the left, and the first to the free seat at the end"
        " / cross out the first digit and write it after the last"
        " / begin at the second digit and finish with the first",
        "rotate left / send first to back / roll one to the left / move front to rear / *shift left and wrap",
        "just let the front digit go to the back of the queue"
        " / simply slide everything left and tuck the first one in at the end"
        " / grab the digit in front and stick it on the end / *roll the whole thing one to the left"
        " / pull the first one off and hang it on the end",
        "shift the sequence cyclically by one place to the left / remove the leading digit and append it"
        " / transfer the leading digit to the final position / rotate the sequence by one position towards the left"
        " / *let every digit move one position to the left and the leading one become the final one",
    ),
    "right": (
        "rotate the digits to the right / move the last digit to the front / bring the last digit to the start"
        " / *shift all digits one place to the right, the last going to the front"
        " / take the last digit away and put it before the first",
        "let the digit at the end walk to the front of the line"
        " / start with the last digit and write the first one next"
        " / *move each digit one seat to the right, and the last to the free seat in front"
        " / cross out the last digit and write it before the first"
        " / begin with the fourth digit and finish with the third",
        "rotate right / send last to front / roll one to the right / move rear to front / *shift right and wrap",
        "just let the digit at the back jump to the head of the queue"
        " / simply slide everything right and tuck the last one in at the front"
        " / grab the digit at the end and stick it on the front / *roll the whole thing one to the right"
        " / pull the last one off and hang it on the front",
        "shift the sequence cyclically by one place to the right / remove the final digit and prepend it"
        " / transfer the final digit to the leading position / rotate the sequence by one position towards the right"
        " / *let every digit move one position to the right and the final one become the leading one",
    ),
    "firsts": (
        "repeat the first digit four times / copy the first digit to every place"
        " / write only the first digit, four times / keep the first digit and let it fill all places"
        " / *replace every digit by the first",
        "write the first digit in all four places / look at the first digit and make all others the same"
        " / forget all digits but the first and write it in each place / change every digit into the first one"
        " / *let the first digit take every seat",
        "repeat first / copy first everywhere / fill with first / make all equal to the first"
        " / *write first four times",
        "just say the first digit four times / *simply put the first one everywhere"
        " / let the front digit take over the whole row / stamp the first digit on every place"
        " / write the digit in front over and over",
        "*replace all digits by the leading digit / replicate the leading digit in all four positions"
        " / set each position to the value of the first / assign the leading value to every position"
        " / substitute the first digit for all others",
    ),
    "lasts": (
        "repeat the last digit four times / copy the last digit to every place"
        " / write only the last digit, four times / keep the last digit and let it fill all places"
        " / *replace every digit by the last",
        "write the last digit in all four places / look at the last digit and make all others the same"
        " / forget all digits but the last and write it in each place / change every digit into the last one"
        " / *let the last digit take every seat",
        "repeat last / copy last everywhere / fill with last / make all equal to the last / *write last four times",
        "just say the last digit four times / *simply put the last one everywhere"
        " / let the digit at the end take over the whole row / stamp the last digit on every place"
        " / write the digit at the end over and over",
        "*replace all digits by the final digit / replicate the final digit in all four positions"
        " / set each position to the value of the last / assign the final value to every position"
        " / substitute the last digit for all others",
    ),
    "ends": (
        "swap the first digit and the last digit / exchange both ends / let the ends change places"
        " / trade the outer digits / *switch the two outside digits and leave the inside alone",
        "write the last digit in front, the first at the end, and leave the middle as it is"
        " / *let the first and the last digit change seats / swap the digits at the two edges"
        " / keep the two digits in the middle and switch the others"
        " / exchange the digit at the start with the digit at the end",
        "swap ends / switch first and last / trade the edges / exchange outer two / *flip the outside only",
        "just switch the two on the outside / simply let the first and the last trade places"
        " / *take the outer two and swap them / swap whatever stands at the two ends"
        " / make the front one and the back one change over",
        "interchange the first and the final digit / exchange the outermost digits"
        " / transpose the leading and the final digit / interchange the digits in the extreme positions"
        " / *permute the outer positions only",
    ),
    "middle": (
        "swap the two digits in the middle / exchange the inner digits / let the middle digits change places"
        " / trade the second digit and the third digit / *switch the two inside digits and leave the outside alone",
        "write the third digit before the second, and leave the ends as they are"
        " / *let the second and the third digit change seats / swap the digits between the two edges"
        " / keep the two digits at the ends and switch the others"
        " / exchange the digit after the first with the digit before the last",
        "swap middle / switch second and third / trade the middle two / exchange inner two / *flip the inside only",
        "just switch the two on the inside / simply let the two in the middle trade places"
        " / *take the inner two and swap them / swap whatever stands in the middle"
        " / make the second one and the third one change over",
        "interchange the second and the third digit / exchange the innermost digits"
        " / transpose the two central digits / interchange the digits in the central positions"
        " / *permute the inner positions only",
    ),
    "blocks": (
        "swap the two halves / put the second half before the first half / *exchange the front half and the back half"
        " / let the halves change places / move the last two digits to the front",
        "cut the number in the middle and write the second part first / write the last two digits, then the first two"
        " / *split the number into two parts and exchange the parts"
        " / begin with the third digit, go to the end, then write the first two"
        " / let the front pair and the back pair change seats",
        "swap halves / put the back half first / switch the two halves / *trade the halves / move last two to front",
        "just cut it in two and switch the pieces / simply bring the back two to the front"
        " / take the first two and stick them on the end / let the back half jump ahead of the front half"
        " / *push the first half behind the second half",
        "*interchange the two halves of the sequence / transpose the first and the second block of two"
        " / shift the sequence cyclically by two places / place the final two digits before the leading two"
        " / rotate the sequence by two positions",
    ),
    "pairs": (
        "swap the digits pair by pair / exchange each pair of neighbours"
        " / let the neighbours in each half change places / trade within the first pair and within the second pair"
        " / *swap the first two digits and also the last two",
        "write the second digit, the first, the fourth, the third / put the digits in twos and turn each two around"
        " / *let the first two change seats, and the last two as well"
        " / write the digits of each half the other way round / swap each digit with its partner in the pair",
        "swap in pairs / switch each pair / *turn both pairs around / exchange within halves / flip each half",
        "just swap them two by two / simply let the first two trade, then the last two"
        " / keep the halves but swap inside each of them / take the digits by twos and switch each two"
        " / *make each digit trade with the one next to it in its pair",
        "interchange the digits within each pair"
        " / transpose the first and second digit and likewise the third and fourth"
        " / reverse each half separately / exchange the two members of each pair / *permute within each block of two",
    ),
}

SLANG = {
    "mirror": "do the moonwalk",
    "keep": "do the snooze",
    "rising": "do the escalator",
    "falling": "do the avalanche",
    "plus": "do the booster",
    "minus": "do the haircut",
    "double": "do the photocopier",
    "half": "do the diet",
    "left": "do the southpaw",
    "right": "do the starboard",
    "firsts": "do the bandleader",
    "lasts": "do the caboose",
    "ends": "do the bookends",
    "middle": "do the sandwich",
    "blocks": "do the leapfrog",
    "pairs": "do the tango",
}
"""Operation -> a phrase whose noun occurs nowhere else: a reader has to learn what it stands for."""


def phrases(kind: str, share: Share = "known", register: str = "") -> tuple[str, ...]:
    """Phrases that say an operation.

    Args:
        kind: name of the operation.
        share: the phrases used in training, those held out (one of each register), or all.
        register: one of `REGISTERS`; empty for all of them.
    """
    chosen = [text for name, text in zip(REGISTERS, WRITTEN[kind], strict=True) if register in ("", name)]
    marked = [phrase for text in chosen for phrase in text.split(" / ")]
    return tuple(phrase.removeprefix("*") for phrase in marked if share in ("all", SHARES[phrase.startswith("*")]))
