// The picture as it will be cut: the whole of it, dimmed where the video does not reach.
import { mark } from "./messages.js";

const LITTLE = 0.02;

export class Picture {
  constructor($, changed) {
    this.$ = $;
    this.changed = changed;
    this.file = null;
    this.ratio = null;
    $("image-preview").onload = () => this.loaded();
    $("image-preview").onerror = () => this.failed();
  }

  take(file) {
    const { $ } = this;
    this.file = file;
    this.ratio = null;
    mark("image", "");
    URL.revokeObjectURL($("image-preview").src);
    $("image-remove").hidden = !file;
    $("image-drop").classList.toggle("filled", Boolean(file));
    if (file) $("image-preview").src = URL.createObjectURL(file);
    else {
      $("image").value = "";
      $("image-preview").removeAttribute("src");
      $("crop").hidden = $("cut").hidden = true;
      $("image-hint").textContent = "Drop it here or choose. Who speaks; may be left out.";
      this.changed();
    }
  }

  loaded() {
    const { naturalWidth: width, naturalHeight: height } = this.$("image-preview");
    this.ratio = width / height;
    this.$("crop").hidden = false;
    this.$("image-hint").textContent = `${this.file.name}: drop or choose another.`;
    this.changed();
  }

  // Browsers read fewer kinds of pictures than the server, which says at once whether it can.
  failed() {
    if (!this.file) return;
    const { $ } = this;
    $("crop").hidden = $("cut").hidden = true;
    if (/\.(tiff?|jp2|j2k|tga|ppm|heic)$/i.test(this.file.name)) {
      $("image-hint").textContent = `${this.file.name}: this browser cannot show it.`;
    } else {
      const { name } = this.file;
      this.take(null);
      mark("image", `${name} cannot be read as a picture: give a png, jpeg or webp.`);
    }
  }

  get shape() {
    if (!this.ratio) return null;
    return this.ratio > 1.15 ? "landscape" : this.ratio < 0.87 ? "portrait" : "square";
  }

  frame(width, height) {
    if (!this.ratio) return;
    const kept = this.$("kept").style;
    const wanted = width / height;
    const [x, y] = [Math.min(1, wanted / this.ratio), Math.min(1, this.ratio / wanted)];
    kept.width = `${100 * x}%`;
    kept.height = `${100 * y}%`;
    kept.left = `${50 - 50 * x}%`;
    kept.top = `${50 - 50 * y}%`;
    this.$("kept").hidden = Math.min(x, y) > 1 - LITTLE;
    const [lost, where] = x < y ? [1 - x, "left and right"] : [1 - y, "top and bottom"];
    this.$("cut").hidden = false;
    this.$("cut").textContent = lost < LITTLE ? "All of the picture is used." : `${Math.round(100 * lost)} % is cut off, ${where}.`;
  }
}
