const MOST = 16;

function element(kind, properties, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function picture(shown) {
  return element("img", { src: shown.source, alt: shown.label, draggable: false });
}

export default function ({ data, parentElement }) {
  parentElement.querySelector(".viewer")?.remove();
  const images = [], windows = [];
  let scale = 1, left = 0, top = 0;  // left and top are fractions of the window, valid for windows of any size

  function show() {
    left = Math.min(0, Math.max(1 - scale, left));
    top = Math.min(0, Math.max(1 - scale, top));
    for (const image of images)
      image.style.transform = `translate(${100 * left}%, ${100 * top}%) scale(${scale})`;
    zoomed.textContent = `${Math.round(100 * scale)} %`;
  }
  function zoom(factor, x = 0.5, y = 0.5) {
    const next = Math.min(MOST, Math.max(1, scale * factor));
    left = x - (x - left) * next / scale;
    top = y - (y - top) * next / scale;
    scale = next;
    show();
  }
  function move(x, y) { left += x; top += y; show(); }
  function whole() { scale = 1; left = top = 0; show(); }

  function watch(view) {
    windows.push(view);
    view.tabIndex = 0;
    view.setAttribute("role", "group");
    view.setAttribute("aria-label", "Zoom with plus and minus, move with the arrow keys");
    view.addEventListener("keydown", (event) => {
      const step = 0.1;
      const keys = {
        "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": whole,
        ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0),
        ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
      };
      if (event.target === view && keys[event.key]) { keys[event.key](); event.preventDefault(); }
    });
    view.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && scale === 1) return;  // leave the event to the page, which scrolls
      const box = view.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, x, y);
      event.preventDefault();
    }, { passive: false });
    view.addEventListener("pointerdown", (down) => {
      if (scale === 1) return;
      let [x, y] = [down.clientX, down.clientY];
      view.setPointerCapture(down.pointerId);
      const drag = (event) => {
        const box = view.getBoundingClientRect();
        move((event.clientX - x) / box.width, (event.clientY - y) / box.height);
        [x, y] = [event.clientX, event.clientY];
      };
      view.addEventListener("pointermove", drag);
      for (const end of ["pointerup", "pointercancel"])
        view.addEventListener(end, () => view.removeEventListener("pointermove", drag), { once: true });
    });
    return view;
  }

  const zoomed = element("span", { className: "zoomed" });
  zoomed.setAttribute("aria-live", "polite");
  const bar = element("div", { className: "bar" },
    element("button", { type: "button", textContent: "−", title: "Zoom out", onclick: () => zoom(0.8) }),
    element("button", { type: "button", textContent: "+", title: "Zoom in", onclick: () => zoom(1.25) }),
    element("button", { type: "button", textContent: "Reset zoom", onclick: whole }), zoomed);
  bar.children[0].setAttribute("aria-label", "Zoom out");
  bar.children[1].setAttribute("aria-label", "Zoom in");

  const viewer = element("div", { className: "viewer" }, bar);
  if (data.slider) {
    const [before, after] = data.pictures;
    images.push(picture(before), picture(after));
    const over = element("div", { className: "over" }, images[1]);
    const line = element("div", { className: "line" });
    const view = watch(element("div", { className: "window" }, images[0], over, line));
    const slider = element("input", { type: "range", min: 0, max: 100, value: 50 });
    const slide = () => {
      over.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
      line.style.left = `calc(${slider.value}% - 1px)`;
    };
    slider.oninput = slide;
    slide();
    const label = element("label", { textContent: `Left: ${before.label} · right: ${after.label}` }, slider);
    viewer.append(element("div", { className: "both" }, label, view));
  } else {
    const grid = element("div", { className: "grid" });
    grid.style.setProperty("--least", data.pictures.length === 4 ? "15rem" : "18rem");
    for (const shown of data.pictures) {
      const image = picture(shown);
      images.push(image);
      grid.append(element("figure", {}, watch(element("div", { className: "window" }, image)),
        element("figcaption", { textContent: shown.label })));
    }
    viewer.append(grid);
  }
  parentElement.append(viewer);
  show();
}
