// One tab plays at a time.

export function pauseOtherTabs(player) {
  const channel = new BroadcastChannel("stemify-player");
  channel.onmessage = () => player.pause();
  player.addEventListener("state", () => player.state === "playing" && channel.postMessage("playing"));
}
