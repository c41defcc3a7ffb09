// Offer to try models on half a minute of the song; the form is loaded when it is opened.

import { byId, show } from "../dom.js";

const isAsked = location.hash === "#try-models"; // read before the state of the player replaces it

/** `address`: where the server takes the request. */
export function offerComparison(job, address, player) {
  const details = byId("try-models");
  const error = byId("try-error");
  details.ontoggle = async () => {
    if (!details.open || byId("try-panel").childElementCount) return;
    error.textContent = "";
    try {
      const { chooseModels } = await import("./models.js");
      await chooseModels(byId("try-panel"), job, address, player);
    } catch (problem) {
      error.textContent = problem.message;
    }
  };
  show(details, true);
  if (!isAsked) return;
  details.open = true;
  details.scrollIntoView();
}
