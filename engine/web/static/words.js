// Format numbers, times and names.

/** In the order of the lanes and of the picture on the Discord card. */
export const STEM_NAMES = {
  vocals: "Vocals",
  drums: "Drums",
  bass: "Bass",
  guitar: "Guitar",
  piano: "Piano",
  other: "Other",
  instrumental: "Instrumental",
};

/** 3:07 */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** 3:07.25 */
export function exactClock(seconds) {
  const hundredths = Math.max(0, Math.round(seconds * 100));
  return `${Math.floor(hundredths / 6000)}:${((hundredths % 6000) / 100).toFixed(2).padStart(5, "0")}`;
}

/** The seconds of "3:07.25", "3:07" or "187.25"; null for other texts. */
export function secondsOf(text) {
  const [, minutes, seconds] = /^(?:(\d+):)?(\d+(?:[.,]\d*)?)$/.exec(text.trim()) ?? [];
  return seconds === undefined ? null : 60 * (minutes ?? 0) + Number(seconds.replace(",", "."));
}

/** The number of "bar 17"; null for other texts. */
export function barOf(text) {
  const [, number] = /^bar\s*(\d+)$/i.exec(text.trim()) ?? [];
  return number === undefined ? null : Number(number);
}

/** "3 minutes 7 seconds" */
export function spokenTime(seconds, digits = 0) {
  const rounded = Math.max(0, Number(seconds.toFixed(digits)));
  const minutes = Math.floor(rounded / 60);
  return (minutes ? `${plural(minutes, "minute")} ` : "") + plural(Number((rounded % 60).toFixed(digits)), "second");
}

export function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** "about 2½ minutes" */
export function about(seconds) {
  if (seconds < 8) return "a few seconds";
  if (seconds < 55) return `about ${Math.round(seconds / 5) * 5} seconds`;
  if (seconds < 75) return "about a minute";
  const halves = Math.round(seconds / 30);
  if (halves < 10 && halves % 2) return `about ${(halves - 1) / 2}½ minutes`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} minutes`;
  return `about ${Math.round(seconds / 3600)} hours`;
}

/** A number and its unit, joined by a no-break space. */
export function unit(number, name) {
  return `${number}\u00a0${name}`;
}

/** A size; a MB is 2 ** 20 bytes, as Discord and Windows count it. */
export function bytes(count) {
  const megabytes = count / 2 ** 20;
  return megabytes < 1
    ? unit(Math.max(1, Math.round(count / 1024)), "kB")
    : unit(megabytes.toFixed(megabytes < 10 ? 1 : 0), "MB");
}

export function decibels(value, digits = 1) {
  return unit(`${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(digits)}`, "dB");
}

export function semitones(count) {
  return count > 0 ? `+${count}` : `${count}`.replace("-", "−");
}

export function percent(share) {
  return unit(Math.round(share * 100), "%");
}

export function day(date) {
  return new Date(date).toLocaleDateString("en", { day: "numeric", month: "long", year: "numeric" });
}
