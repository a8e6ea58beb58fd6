// The half with words and pictures: slider, badge, the pictures of one view, switches for what is drawn.

class Panel {
  constructor(payload, stage) {
    Object.assign(this, { payload, stage, wide: new Set() });
    this.find = (id) => document.getElementById(id);
    this.find("title").textContent = payload.title;
    const { views } = payload, slider = this.find("view");
    this.find("chooser").hidden = !views.length;
    slider.max = Math.max(0, views.length - 1);
    slider.addEventListener("input", () => this.select(Number(slider.value)));
    if (stage) {
      stage.onSelect = (index) => this.select(index);
      stage.onLeave = () => { this.find("layer-through").checked = false; };
      this.addSwitches();
    }
    if (views.length) this.select(0);
  }

  addSwitches() {
    for (const [name, words] of LAYERS) {
      if (!(name in this.stage.on)) continue;
      const label = document.createElement("label"), box = document.createElement("input");
      Object.assign(box, { type: "checkbox", id: `layer-${name}`, checked: this.stage.on[name] });
      box.addEventListener("change", () => {
        this.stage.toggle(name, box.checked);
        if (["splats", "mesh", "points"].includes(name)) this.showPictures();
      });
      label.append(box, words);
      this.find("layers").append(label);
    }
  }

  select(index) {
    const view = this.payload.views[index], [r, g, b] = this.payload.statusColors[view.status];
    this.index = index;
    this.find("view").value = index;
    this.find("place").textContent = `${index + 1} of ${this.payload.views.length}`;
    this.find("name").textContent = view.name;
    this.find("badge").textContent = view.status;
    this.find("badge").style.background = `rgb(${r} ${g} ${b})`;
    this.stage?.select(index);
    return this.showPictures();
  }

  async showPictures() {
    const index = this.index, view = this.payload.views[index], places = this.find("pictures");
    if (!view) return;
    document.body.dataset.state = "busy";
    const top = this.payload.differenceTop, figures = [];
    const add = (key, picture, words) => figures.push(this.figure(key, picture, words));
    if (view.image) add("view", view.image, view.status === "generated" ? "generated view" : "view");
    if (view.truth) add("truth", view.truth, `ground truth (same ${this.payload.truthBy})`);
    if (view.difference) {
      const score = view.psnr === "equal" ? "equal" : `PSNR ${view.psnr.toFixed(2)} dB`;
      add("difference", view.difference, `difference to truth: ${score}; white 0, dark red ${top}`);
    }
    if (view.depth) {
      const [near, far] = view.depthRange.map((value) => value.toPrecision(3));
      add("depth", view.depth, `depth: light ${near}, dark ${far}`);
    }
    if (view.spread) add("spread", view.spread, `deviation over samples: dark red ${view.spreadTop.toPrecision(2)}`);
    const pair = await this.compareWithRender(view, index);
    if (index !== this.index) return;
    if (pair) {
      add("render", pair.render, "what is drawn, seen from here");
      if (pair.difference) add("render-difference", pair.difference, `drawn against ${pair.against}: PSNR ${pair.psnr}; white 0, dark red ${top}`);
    }
    places.replaceChildren(...figures);
    document.body.dataset.state = "ready";
  }

  figure(key, picture, words) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    let shown = picture;
    if (typeof picture === "string") {
      shown = new Image();
      Object.assign(shown, { src: picture, alt: words });
    }
    figure.id = `picture-${key}`;
    figure.classList.toggle("wide", this.wide.has(key));
    figure.addEventListener("click", () => {
      if (figure.classList.toggle("wide")) this.wide.add(key); else this.wide.delete(key);
    });
    caption.textContent = words;
    figure.append(shown, caption);
    return figure;
  }

  // The object drawn through the view's camera beside its real image: the truth where known, else the view.
  async compareWithRender(view, index) {
    if (!this.stage?.hasBody || !view.worldFromCam) return null;
    const source = view.truth ?? view.image, image = source ? await loadImage(source) : null;
    const [height, width] = image ? [image.naturalHeight, image.naturalWidth] : view.size;
    const bytes = this.stage.render(index, width, height);
    if (!bytes) return null;
    const render = this.canvas(width, height);
    render.context.putImageData(new ImageData(bytes, width, height), 0, 0);
    if (!image) return { render: render.canvas };
    const real = this.canvas(width, height), gap = this.canvas(width, height);
    real.context.drawImage(image, 0, 0);
    const other = real.context.getImageData(0, 0, width, height).data, drawn = new ImageData(width, height);
    let squares = 0;
    for (let i = 0; i < bytes.length; i += 4) {
      let apart = 0;
      for (let c = 0; c < 3; c++) {
        const step = (bytes[i + c] - other[i + c]) / 255;
        apart += Math.abs(step) / 3;
        squares += step * step;
      }
      drawn.data.set([...this.heat(apart / this.payload.differenceTop), 255], i);
    }
    gap.context.putImageData(drawn, 0, 0);
    const error = squares / (3 * width * height);
    const psnr = error ? `${(-10 * Math.log10(error)).toFixed(2)} dB` : "equal";
    return { render: render.canvas, difference: gap.canvas, psnr, against: view.truth ? "truth" : "the view" };
  }

  canvas(width, height) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    return { canvas, context };
  }

  heat(value) {
    const stops = this.payload.heat, place = Math.min(Math.max(value, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2), part = place - low;
    return [0, 1, 2].map((c) => stops[low][c] * (1 - part) + stops[low + 1][c] * part);
  }
}
