/** Under the photo: what is done most, as buttons for fingers and for those who do not know the keys yet. */
import { colorOf } from "./colors";
import * as open from "./document";
import { drawing, hidden, isClassify, namePhoto, troubles, useClass } from "./editing";
import { t } from "./i18n";
import { Icon, type IconName } from "./icons";
import type { Command } from "./keys";
import { classes, currentClass } from "./session";
import { carryOut } from "./shortcuts";

type Named = Extract<Command, string>;

/** On a narrow screen the panel is out of sight, and so its classes lie above the tools. */
export function ClassStrip() {
  if (classes.value.length === 0) return null;
  return (
    <div class="strip narrow-only" role="toolbar" aria-label={t("classes.title")}>
      {classes.value.map(({ name }) => {
        const pressed = isClassify() ? open.names.value.includes(name) : currentClass.value === name;
        return (
          <button
            type="button"
            key={name}
            aria-pressed={pressed}
            onClick={() => (isClassify() ? namePhoto(name, pressed) : useClass(name))}
          >
            <span class="swatch" style={{ background: colorOf(name) }} aria-hidden="true" />
            <bdi class="class-name">{name}</bdi>
          </button>
        );
      })}
    </div>
  );
}

export function Tools() {
  const photo = open.photo.value;
  const offers = open.visibleOffers.value.length > 0;
  const isKept = troubles.value.has(photo?.photo ?? "");
  return (
    <div class="tools" role="toolbar" aria-label={t("tools.title")}>
      <Tool command="previous" icon="previous" keyName="F" />
      {!isClassify() && <DetectTools offers={offers} />}
      <Tool command="nothing" icon="none" keyName="N" pressed={open.empty.value} />
      <Tool command="undo" icon="undo" keyName="Z" off={!photo?.can_undo || isKept} />
      <Tool command="redo" icon="redo" keyName="Shift-Z" off={!photo?.can_redo} wide />
      <Tool command="next" icon="next" keyName="D" />
    </div>
  );
}

function DetectTools({ offers }: { offers: boolean }) {
  return (
    <>
      <Tool command="draw" icon="draw" keyName="W" pressed={drawing.value} />
      <Tool command="accept" icon="check" keyName="Enter" off={!offers} />
      <Tool command="reject" icon="cross" keyName="X" off={!offers} />
      <Tool command="acceptAll" icon="all" keyName="A" off={!offers} />
      <Tool command="copy" icon="copy" keyName="C" wide />
      <Tool command="remove" icon="trash" keyName="Delete" off={open.selectedLabel.value === null} />
      <Tool command="hide" icon="eye" keyName="H" pressed={hidden.value} wide />
    </>
  );
}

const KEY_SIGNS: Record<string, string> = { Delete: "Del", "Shift-Z": "⇧Z" };

interface ToolProps {
  command: Named;
  icon: IconName;
  keyName: string;
  off?: boolean;
  pressed?: boolean;
  wide?: boolean;
}

function Tool({ command, icon, keyName, off = false, pressed, wide = false }: ToolProps) {
  const text = t(`key.${command as "draw"}`);
  return (
    <button
      type="button"
      class={wide ? "tool wide-only" : "tool"}
      disabled={off}
      aria-pressed={pressed}
      aria-label={text}
      title={`${text} (${keyName})`}
      aria-keyshortcuts={keyName.replace("-", "+")}
      onClick={() => carryOut(command)}
    >
      <Icon name={icon} />
      <kbd>{KEY_SIGNS[keyName] ?? keyName}</kbd>
    </button>
  );
}
