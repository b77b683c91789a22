/** Images that are dropped or pasted anywhere go to the view that takes them. */

import { at } from "./dom.js";
import { mayInspect } from "./state.js";

/** Listen; `taker()` returns who takes files now: {take(files), dropText}. */
export function listenForImages(taker) {
  const files = (event) => event.dataTransfer?.types.includes("Files") && mayInspect();
  addEventListener("dragover", (event) => {
    event.preventDefault();
    at("drop-text").textContent = taker().dropText;
    document.body.classList.toggle("dropping", Boolean(files(event)));
  });
  addEventListener(
    "dragleave",
    (event) => !event.relatedTarget && document.body.classList.remove("dropping"),
  );
  addEventListener("drop", (event) => {
    event.preventDefault(); // wherever it falls, the browser does not leave the page for it
    document.body.classList.remove("dropping");
    if (files(event)) taker().take(event.dataTransfer.files);
  });
  addEventListener(
    "paste",
    (event) => event.clipboardData?.files.length && taker().take(event.clipboardData.files),
  );
}
