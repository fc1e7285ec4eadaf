"use strict";
// Numbers at the pointer, for every chart; arrow keys do the same. The page is whole without it.
function watchPointer(plot) {
  const data = JSON.parse(document.querySelector(`script[data-for="${plot.dataset.chart}"]`).textContent);
  const places = [...new Set(data.series.flatMap((one) => one.x))].sort((a, b) => a - b);
  if (!places.length) return;
  const add = (parent, tag, kind) => {
    const made = document.createElement(tag);
    made.className = kind;
    parent.append(made);
    return made;
  };
  let cross, tip, dots = [];
  const hide = () => {
    for (const one of [cross, tip, ...dots]) one?.remove();
    cross = tip = undefined;
    dots = [];
  };
  const nearest = (x, wanted) => {
    let low = 0, high = x.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (x[middle] < wanted) low = middle; else high = middle;
    }
    return Math.abs(x[low] - wanted) <= Math.abs(x[high] - wanted) ? low : high;
  };
  const percent = (x) => (100 * (x - data.low)) / (data.high - data.low);
  let shown = 0;
  const show = (wanted) => {
    hide();
    const place = places[nearest(places, wanted)];
    shown = place;
    cross = add(plot, "div", "cross");
    cross.style.left = `${percent(place)}%`;
    tip = add(plot, "div", "tip");
    tip.setAttribute("role", "status");
    add(tip, "b", "").textContent = `${data.x} ${place.toLocaleString("en-US")}`;
    for (const one of data.series) {
      const index = nearest(one.x, place);
      const line = add(tip, "div", "");
      add(line, "i", `c${one.color}`);
      const where = one.x[index] === place ? "" : ` (${data.x} ${one.x[index].toLocaleString("en-US")})`;
      line.append(`${one.name}: ${one.said[index]}${one.x.length > 2 ? where : ""}`);
      const dot = add(plot, "i", `dot c${one.color}`);
      dot.style.left = `${percent(one.x.length > 2 ? one.x[index] : place)}%`;
      dot.style.top = `${one.top[index]}%`;
      dots.push(dot);
    }
    const left = (percent(place) / 100) * plot.clientWidth;
    const room = plot.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.min(Math.max(left + (left > plot.clientWidth / 2 ? -tip.offsetWidth - 10 : 10), -40), Math.max(room, -40))}px`;
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    show(data.low + ((event.clientX - box.left) / box.width) * (data.high - data.low));
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!turn) return;
    event.preventDefault();
    const at = cross ? places.indexOf(shown) + turn : turn > 0 ? 0 : places.length - 1;
    show(places[Math.min(Math.max(at, 0), places.length - 1)]);
  });
}
for (const plot of document.querySelectorAll(".plot")) watchPointer(plot);
