"use strict";
// Replaces the content by what /live sends. Without a word for a while it says so, and goes on trying.
const main = document.getElementById("main");
const state = document.getElementById("live");
let source = null;
let last = Date.now();

// A table that somebody has moved sideways, or has the focus in, stays so.
function replace(html) {
  const before = [...main.querySelectorAll(".wide")];
  const moved = before.map((table) => table.scrollLeft);
  const focused = before.indexOf(document.activeElement);
  main.innerHTML = html;
  main.querySelectorAll(".wide").forEach((table, i) => {
    if (moved[i]) table.scrollLeft = moved[i];
    if (i === focused) table.focus({ preventScroll: true });
  });
}

function connect() {
  source = new EventSource("live");
  source.onmessage = (event) => {
    last = Date.now();
    // What somebody is about to copy stays as it is.
    if (document.getSelection().isCollapsed) replace(event.data);
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  };
}

setInterval(() => {
  const age = Math.round((Date.now() - last) / 1000);
  const old = age > 6;
  main.classList.toggle("old", old);
  state.textContent = old ? `not live: nothing for ${age} s` : "live";
}, 1000);

connect();
