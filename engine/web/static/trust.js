// Quality scores and measurements of a result.

import { byId, el, icon, show } from "./dom.js";
import { day, decibels, percent, plural, spokenTime, STEM_NAMES, unit } from "./words.js";

const SCORES = [
  ["overallScore", "Overall"],
  ["vocalIsolation", "Vocals"],
  ["drumSeparation", "Drums"],
  ["bassIsolation", "Bass"],
  ["artifactReduction", "Free of artefacts"],
];
const SCALE = `${percent(1)} is like the original stem, from ${percent(0.85)} is clean, from ${percent(0.75)} good, from ${percent(0.5)} fair.`;

export function showTrust(job, stems) {
  const { trust, qualityMetrics: quality, processing } = job.result;
  byId("facts").replaceChildren(
    ...facts(job, stems).map(([mood, text]) =>
      el("li", { class: mood }, icon(mood === "warn" ? "alert" : "check"), el("span", {}, text))
    ),
  );
  const scores = quality
    ? SCORES.filter(([key]) => typeof quality[key] === "number")
    : [];
  byId("verdicts").replaceChildren(...(quality ? verdicts(quality) : []));
  byId("advice").textContent = quality?.advice ?? "";
  byId("scores").replaceChildren(...scores.map(([key, label]) => score(label, quality[key])));
  if (quality) {
    const unvalidated = quality.validated ? "" : " (unvalidated)";
    const doubt = quality.lowConfidence ? " The song is short, so the estimate is rough." : "";
    byId("scores").append(
      el("p", { class: "hint" }, `${SCALE} Estimated from the sound alone, without the original stems${unvalidated}.${doubt}`),
    );
  }
  show(byId("trust"), true);
  for (const name of ["verdicts", "scale", "in-scores"]) show(byId(name), Boolean(quality));
  const numbers = [...levels(stems), ...(trust ? inNumbers(job, trust, processing) : [])];
  byId("numbers").replaceChildren(...numbers.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  show(byId("details"), numbers.length > 0);
}

/** A word for the result and for each stem. */
function verdicts({ words, absent }) {
  const names = ["overall", ...Object.keys(STEM_NAMES)].filter((name) => words[name] || absent.includes(name));
  return names.map((name) => {
    const label = name === "overall" ? "Overall" : STEM_NAMES[name];
    const isAbsent = absent.includes(name);
    const word = isAbsent ? `no ${label.toLowerCase()} found` : words[name];
    return el("li", { class: isAbsent ? "none" : word }, isAbsent ? null : `${label} `, el("b", {}, word));
  });
}

function score(label, value) {
  const text = percent(value);
  const filled = el("i");
  filled.style.width = `${100 * value}%`;
  const meter = {
    class: "score-bar",
    role: "meter",
    "aria-label": label,
    "aria-valuemin": 0,
    "aria-valuemax": 1,
    "aria-valuenow": value.toFixed(2),
    "aria-valuetext": text,
  };
  return el(
    "div",
    { class: "score" },
    el("span", {}, label),
    el("span", meter, filled),
    el("b", { "aria-hidden": "true" }, text),
  );
}

function facts(job, stems) {
  const { trust, music } = job.result;
  const list = [];
  const tempo = typeof music?.tempoBpm === "number" ? [`${music.tempoBpm.toFixed(1)} BPM`] : [];
  const key = music?.key ? [`${music.key} (${music.camelot})`] : [];
  if (tempo.length + key.length > 0) list.push(["good", `${[...tempo, ...key].join(", ")}.`]);
  if (trust) {
    list.push(sumFact(trust.residualDb, job.options.removeVocals));
    if (trust.offset) {
      list.push([
        "good",
        `An offset (DC) of up to ${offsetShare(trust)} of full scale was removed. It is inaudible.`,
      ]);
    }
    if (Math.abs(trust.gainDb) < 0.005) list.push(["good", "The volume was not changed."]);
    else {list.push([
        "good",
        `All stems were turned ${trust.gainDb > 0 ? "up" : "down"} by the same ${
          decibels(Math.abs(trust.gainDb)).replace("+", "")
        }, which keeps their balance.`,
      ]);}
    list.push(
      trust.clippedSamples
        ? ["warn", `${plural(trust.clippedSamples, "sample")} clipped at full scale.`]
        : ["good", "Nothing is clipped."],
    );
  }
  for (const { name, info } of stems) {
    const stem = STEM_NAMES[name] ?? name;
    if (info.peakDb === null || info.silenceShare === 1) {
      list.push(["good", `${stem}: silent in this song.`]);
    } else if (info.silenceShare >= 0.05) {
      list.push(["good", `${stem}: silent for ${percent(info.silenceShare)} of the song.`]);
    }
  }
  for (const note of trust?.notes ?? []) list.push(["warn", note]);
  return list;
}

function sumFact(residualDb, isKaraoke) {
  const parts = isKaraoke ? "Vocals and instrumental" : "The stems";
  if (residualDb === null || residualDb <= -80) return ["good", `${parts} add up to the mix exactly.`];
  const share = 100 * 10 ** (residualDb / 20);
  const difference = `the difference is ${unit(share < 1 ? share.toFixed(share < 0.1 ? 3 : 1) : Math.round(share), "%")} of its level (${
    decibels(residualDb)
  })`;
  return residualDb <= -20
    ? ["good", `${parts} add up to the mix: ${difference}.`]
    : ["warn", `${parts} do not add up exactly: ${difference}.`];
}

function offsetShare(trust) {
  return unit((100 * trust.offset).toFixed(2), "%");
}

function levels(stems) {
  return stems.filter(({ info }) => typeof info.levelDb === "number").map(({ name, info }) => {
    const silent = info.silenceShare >= 0.005 ? `, silent for ${percent(info.silenceShare)}` : "";
    return [STEM_NAMES[name] ?? name, `${decibels(info.levelDb)}FS, peak ${decibels(info.peakDb)}FS${silent}`];
  });
}

function inNumbers(job, trust, processing) {
  const rows = [
    ["In no stem", trust.residualDb === null ? "nothing" : `${decibels(trust.residualDb)} of the mix`],
    ...(trust.offset ? [["Constant offset removed", offsetShare(trust)]] : []),
    ["Common gain", `${decibels(trust.gainDb, 2)}, ${plural(trust.clippedSamples, "clipped sample")}`],
    ...(job.result.qualityMetrics ? [["Quality estimate", job.result.qualityMetrics.method]] : []),
    ["Model", job.result.modelUsed],
    [
      "Separated in",
      `${plural(trust.segments, "segment")} of ${unit(trust.segmentS.toFixed(1), "s")}, ${percent(trust.overlap)} overlap`,
    ],
    ["Shifts", trust.shifts ? String(trust.shifts) : "none"],
    ["Seed", String(trust.seed)],
    ["Device", trust.device],
    ["Took", spokenTime(job.result.processingTime)],
    ["Separated on", day(job.updatedAt)],
  ];
  if (processing) rows.push(["Memory, peak", unit(processing.memoryUsage.toLocaleString("en"), "MB")]);
  if (typeof processing?.gpuUsage === "number") rows.push(["GPU in use", percent(processing.gpuUsage / 100)]);
  return rows;
}
