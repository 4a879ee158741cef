// Lists of known texts: the "modern" profile of `corpora.text`, and the lines of a list as `downstream.find` reads them.

import { inQuranSpelling, modernSpelling } from "./quran.js";

const MARKS = /[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u08d3-\u08ff]/g;
const ARABIC = /\p{Script=Arabic}/u;

/** Without diacritics, tatweel, punctuation and symbols; ASCII digits; all letters unchanged; single spaces. */
export function normalise(text) {
  return text
    .normalize("NFC")
    .replace(/\p{Cf}/gu, "")
    .replace(/[\u0660-\u0669]/g, (digit) => String(digit.charCodeAt(0) - 0x660))
    .replace(MARKS, "")
    .replace(/[\p{P}\p{S}]/gu, "")
    .replace(/\u0671/g, "\u0627")
    .replace(/\u0640/g, "")
    .split(/[\s\x1c-\x1f\x85]+/)
    .filter(Boolean)
    .join(" ");
}

/** What is wrong with a list; `code` names the message of strings.js, `values` fill it. */
export class ListError extends Error {
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

/**
 * The lines of a list: {ids, texts, lines}. A first word without Arabic letters is the id of its line (Kaldi's `text`),
 * otherwise the number of the line is. Raises ListError.
 */
export function readTexts(content, characters) {
  const spelled = inQuranSpelling(content) ? modernSpelling : (text) => text;
  const known = new Set(characters);
  const found = { ids: [], texts: [], lines: [] };
  const seen = new Map();
  content
    .replace(/^\ufeff/, "")
    .split(/\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/)
    .forEach((line, index) => {
      const whole = line.trim();
      if (!whole) return;
      const number = index + 1;
      const [, first, rest] = /^(\S+)\s*(.*)$/s.exec(whole);
      const named = !ARABIC.test(first);
      const id = named ? first : String(number);
      const raw = named ? rest : whole;
      if (seen.has(id)) throw new ListError("listRepeated", { line: number, id, other: seen.get(id) });
      seen.set(id, number);
      const kept = [...normalise(spelled(raw))].filter((c) => known.has(c)).join("").split(" ").filter(Boolean).join(" ");
      if (!kept) throw new ListError("listNoText", { line: number });
      found.ids.push(id);
      found.texts.push(kept);
      found.lines.push(raw);
    });
  if (!found.ids.length) throw new ListError("listEmpty");
  return found;
}
