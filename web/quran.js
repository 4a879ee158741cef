// Quran spelling to modern spelling without diacritics: `corpora.quran_spelling` in the browser, word for word the same.

const FATHA = "\u064e";
const DAMMA = "\u064f";
const KASRA = "\u0650";
const SHADDA = "\u0651";
const SILENT = "\u0652";
const DAGGER = "\u0670";
const SMALL_WAW = "\u06e5";
const SMALL_SEEN = "\u06dc";
const HAMZA_ABOVE = "\u0654";
const HAMZA_BELOW = "\u0655";
const SMALL_NOON = "\u06e8";
const TATWEEL = "\u0640";
const SUKUN = "\u06e1";
const A = [FATHA, "\u064b", "\u0657", DAGGER];
const U = [DAMMA, "\u064c", "\u065e"];
const I = [KASRA, "\u064d", "\u0656"];
const TANWIN_A = ["\u064b", "\u0657"];
const SMALL_YA = ["\u06e6", "\u06e7"];
const MARK = /[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u08d3-\u08ff]/;
const NOT_TEXT = /[\u06dd\u06de\u06e9]/g;
const NO_CONNECTION = "ادذرزوأآء"; // letters that do not join the next one

// Bare words whose dagger alef is not written in modern spelling, with their prefixes and suffixes.
const NO_ALEF = new RegExp(
  "^[أوفبكل]{0,2}(هذا|هذه|هذان|هؤلاء|هكذا|ذلك(م|ما|ن)?|أولئك(م)?|لكن(ه|ها|هم|ا|ي|كم)?|(ال)?رحمن|رحمن|" +
    "(ال)?إله(ا|ه|ك|كم|نا|هم|ي|ين)?|الله|لله|اللهم)$",
);
// Bare words with another modern spelling.
const WORDS = new Map([
  ["رءا", "رأى"],
  ["ترءا", "تراءى"],
  ["ونءا", "ونأى"],
  ["يبنؤم", "يا ابن أم"],
  ["لءيكة", "الأيكة"],
  ["أيه", "أيها"],
  ["بأييكم", "بأيكم"],
  ["فادرءتم", "فادارأتم"],
  ["أءله", "أإله"],
  ["ءألهتنا", "أآلهتنا"],
  ["ءاعجمي", "أأعجمي"],
  ["السيأ", "السيئ"],
  ["الليي", "اللائي"],
  ["والليي", "واللائي"],
  ["ليسءوا", "ليسوءوا"],
]);
// The female ending that the Quran writes open in some places, where the letter before it has a fatha.
const OPEN_TA =
  /^[وفبل]?(ال)?(رحمت|نعمت|امرأت|سنت|لعنت|شجرت|قرت|معصيت|كلمت|بقيت|فطرت|ابنت|غيبت|جنت|بينت)$/;
const TWO_LAMS = [
  [/^([وفبك]?)اليل/, "$1الليل"],
  [/^([وفبك]?)ال(ات|ائ|ذان|ذين)/, "$1ال$2"],
];
// The vocative and `ha` are words of their own today: a ya or ha with a dagger alef before a further word.
const PREFIXES = [
  ["وَي", "ويا "],
  ["ي", "يا "],
  ["ه", "ها "],
].map(([prefix, written]) => [prefix, written, new RegExp(`^${prefix}\u064e?\u0640?\u0670\u0653?(?=[^\u0653]{2})`)]);

class Letter {
  constructor(base, marks = []) {
    this.base = base;
    this.marks = new Set(marks);
  }

  has(marks) {
    return [...marks].some((mark) => this.marks.has(mark));
  }

  without(...marks) {
    return [...this.marks].filter((mark) => !marks.includes(mark));
  }

  get vowel() {
    return this.has(I) ? "i" : this.has(U) ? "u" : this.has(A) ? "a" : "";
  }

  get vowelWithoutDagger() {
    return this.has([...A.filter((mark) => mark !== DAGGER), ...U, ...I, SHADDA]);
  }
}

/** Whether a text has a letter that only Quran spelling has: alef wasla, or its sign of a letter without vowel. */
export function inQuranSpelling(text) {
  return /[\u0671\u06e1]/.test(text);
}

/** The words of a Quran text as they are written today, without diacritics; white space becomes single spaces. */
export function modernSpelling(text) {
  return text
    .normalize("NFC")
    .replace(NOT_TEXT, " ")
    .replaceAll("آ", "ا\u0653")
    .split(/[\s\x1c-\x1f\x85]+/)
    .filter(Boolean)
    .map(modernWord)
    .join(" ");
}

function modernWord(word) {
  for (const [prefix, written, pattern] of PREFIXES) {
    const match = pattern.exec(word);
    const rest = match ? word.slice(match[0].length) : "";
    if (match && (prefix !== "ه" || bareOf(rest).startsWith("أنتم"))) return written + modernWord(rest);
  }
  const letters = lettersOf(word);
  const bare = letters.map((letter) => letter.base).join("");
  if (WORDS.has(bare)) return WORDS.get(bare);
  const keepsAlef = !NO_ALEF.test(bare);
  const end = letters.at(-1);
  const previous = letters.at(-2);
  const openTa = OPEN_TA.test(bare) && previous && previous.marks.has(FATHA) && !previous.marks.has(DAGGER);
  if (openTa && end.vowel) end.base = "ة";
  let result = "";
  let skip = false;
  letters.forEach((letter, i) => {
    if (skip) {
      skip = false;
      return;
    }
    const before = letters[i - 1];
    const after = letters[i + 1];
    const { base, marks } = letter;
    let dagger = marks.has(DAGGER);
    if (marks.has(SILENT) && "اوي".includes(base)) {
      if (silentIsWritten(letters, i)) result += base;
      return;
    }
    if (base === "ء") {
      const prefixed = letters.slice(0, i).every((earlier) => "وفبكل".includes(earlier.base));
      const [written, swallows] = hamza(letter, before, after, { prefixed, lastButOne: i + 2 === letters.length });
      result += written;
      skip = swallows;
      dagger &&= !written.endsWith("آ") && !skip;
    } else if (base === "ؤ" && after && i + 2 === letters.length && after.base === "ا" && after.marks.has(SILENT)) {
      const seat = before && (before.marks.has(DAGGER) || before.base === "ا") ? "ء" : "أ";
      result += before?.vowel === "u" ? "ؤ" : seat;
      skip = true;
    } else if (base === "أ" && (marks.has("\u0653") || (dagger && keepsAlef))) {
      result += "آ";
      dagger = false;
    } else if (base === "إ" && after?.base === "ي" && after.marks.has(SILENT) && bare.includes("ملإ")) {
      result += "ئ";
    } else if (base === "و" && dagger && !letter.vowelWithoutDagger) {
      result += "ا";
      dagger = false;
    } else if (base === "ى" && after && (dagger || !letter.vowel)) {
      result += "ا";
      dagger = false;
    } else if (base === "ص" && marks.has(SMALL_SEEN)) {
      result += "س";
    } else {
      result += base;
    }
    if (dagger && base !== "ى" && keepsAlef) result += "ا";
    result += smallLetters(letter, !after, bare);
  });
  if (/ءو$/.test(bare)) result += "ا";
  if (word.slice(0, 4).includes(SUKUN)) result = result.replace(/^([وف])سأل(?=$|[ه و])/, "$1اسأل");
  for (const [pattern, written] of TWO_LAMS) result = result.replace(pattern, written);
  if (
    word.includes("ٱلَّ") &&
    /^[وف]?ال(اتي|ائي|ذان|ذين)/.test(result) &&
    (!result.includes("الذين") || word.includes("ذَي"))
  ) {
    result = result.replace(/^([وف]?)ال/, "$1الل");
  }
  return result;
}

/** The letters of a word with their marks. A tatweel that carries a hamza, a ya or a noon is that letter. */
function lettersOf(word) {
  const letters = [];
  for (const char of word) {
    if (MARK.test(char)) letters.at(-1)?.marks.add(char);
    else letters.push(new Letter(char === "ٱ" ? "ا" : char));
  }
  const whole = [];
  for (let letter of letters) {
    if (letter.base === TATWEEL) {
      if (letter.has([HAMZA_ABOVE, HAMZA_BELOW])) {
        if (letter.has(SMALL_YA)) whole.push(new Letter("ي", letter.without(...SMALL_YA)));
        letter.base = "ء";
      } else if (letter.has(SMALL_YA)) {
        letter = new Letter("ي", letter.without(...SMALL_YA));
      } else if (letter.marks.has(SMALL_NOON)) {
        letter.base = "ن";
      } else if (letter.marks.has(SMALL_WAW)) {
        letter = new Letter("و", letter.without(SMALL_WAW));
      } else {
        letter.marks.forEach((mark) => whole.at(-1)?.marks.add(mark));
        continue;
      }
    } else if (letter.marks.has(HAMZA_ABOVE)) {
      // A hamza after the letter, without a seat.
      whole.push(new Letter(letter.base, letter.vowel === "a" ? [FATHA] : []));
      letter = new Letter("ء", [SUKUN]);
    } else if (letter.marks.has(HAMZA_BELOW) && "يى".includes(letter.base)) {
      letter = new Letter(whole.at(-1)?.base === "ا" ? "ء" : "ئ", letter.marks);
    }
    whole.push(letter);
  }
  return whole;
}

function bareOf(word) {
  return lettersOf(word)
    .map((letter) => letter.base)
    .join("");
}

/** A hamza without a seat as it is written today, and whether it swallows the next letter (an alef). */
function hamza(letter, before, after, { prefixed, lastButOne }) {
  const alef = after?.base === "ا" && !after.marks.has(SILENT);
  const own = letter.vowel;
  if (!before) {
    if (alef || letter.marks.has("\u0653")) return ["آ", alef];
    return [letter.marks.has(DAGGER) ? "آ" : own === "i" ? "إ" : "أ", false];
  }
  if (!after) return ["ء", false];
  const tail = before.vowel;
  // A long vowel: the letter carries none itself, or a dagger alef follows the one that it carries.
  const long = "اى".includes(before.base) || before.marks.has(DAGGER);
  const resting = "وي".includes(before.base) && !before.vowel;
  if (letter.has(TANWIN_A) && alef && lastButOne) {
    if (long) return ["ء", true];
    if (tail === "a") return ["أ", true];
    if ((resting && before.base === "ي") || tail === "i") return ["ئ", false];
    return [NO_CONNECTION.includes(before.base) ? "ء" : "ئ", false];
  }
  if (prefixed && alef && own === "a" && tail === "i") return ["آ", true];
  if (own === "i" || (tail === "i" && !long) || (resting && before.base === "ي")) return ["ئ", false];
  if (own === "u") return [long && after.base === "و" ? "ء" : "ؤ", false];
  if (long) return ["ء", false];
  if (tail === "u") return ["ؤ", false];
  if (alef || letter.marks.has(DAGGER)) return ["آ", alef];
  return [resting ? "ء" : "أ", false];
}

/** Letters that are not read: the alef after a final waw and the waw of ulaika and uli stay, others go. */
function silentIsWritten(letters, i) {
  const { base } = letters[i];
  const before = letters[i - 1];
  if (base === "ا") return i + 1 === letters.length && before?.base === "و" && !before.marks.has(DAGGER);
  // As in Python, the letter before the first one is the last one.
  if (base === "و") return letters[i + 1]?.base === "ل" && letters.at(i - 1).base === "أ";
  return false;
}

/** Small waw and ya are written out, except at the end after a ha (a pronoun), and in the name Dawud. */
function smallLetters(letter, last, bare) {
  if (letter.marks.has(SMALL_WAW) && !last && !bare.includes("داود")) return "و";
  return letter.has(SMALL_YA) && !(last && letter.base === "ه") ? "ي" : "";
}
