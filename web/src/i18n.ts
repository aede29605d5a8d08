/** Texts in the language of the browser or the one chosen; one JSON file per language. */
import { computed, signal } from "@preact/signals";
import de from "./texts/de.json";
import en from "./texts/en.json";
import zh from "./texts/zh.json";

export type TextKey = keyof typeof en;
export type Language = "en" | "de" | "zh";

export const TEXTS: Record<Language, Record<TextKey, string>> = { en, de, zh };
export const LANGUAGES: Record<Language, string> = { en: "English", de: "Deutsch", zh: "中文" };
const KEPT = "sppnet:language";

/** The first language of the browser that there are texts in; English otherwise. */
export function preferred(kept: string | null, wanted: readonly string[]): Language {
  const all = [kept ?? "", ...wanted].map((tag) => tag.toLowerCase().split("-")[0] ?? "");
  return (all.find((tag) => tag in TEXTS) as Language | undefined) ?? "en";
}

export const language = signal<Language>(preferred(localStorage.getItem(KEPT), navigator.languages ?? []));

export function setLanguage(to: Language): void {
  language.value = to;
  localStorage.setItem(KEPT, to);
}

export type Values = Record<string, string | number>;

/** A text with its {places} filled. */
export function fill(text: string, values: Values): string {
  return text.replace(/\{(\w+)\}/g, (place, name: string) => String(values[name] ?? place));
}

export const t = (key: TextKey, values: Values = {}) => fill(TEXTS[language.value][key], values);

const numbers = computed(() => new Intl.NumberFormat(language.value));
const shares = computed(
  () => new Intl.NumberFormat(language.value, { style: "percent", maximumFractionDigits: 0 }),
);

export const number = (value: number) => numbers.value.format(value);
export const percent = (share: number) => shares.value.format(share);
